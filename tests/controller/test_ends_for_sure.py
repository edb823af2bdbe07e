"""When a watch fails or all work is done the process ends, whatever a task says to being cancelled."""

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from finetune_operator import main
from tests.controller.world import SETTINGS

STUBBORN = """
import asyncio, contextlib, sys
from finetune_operator import main
from finetune_operator.settings import Settings

async def stubborn():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

async def run(settings):
    run.task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    return 7

main.run = run
sys.exit(main.serve(Settings(trainer_image="t")))
"""


async def test_a_failed_watch_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of kopf's tasks fails while another will not end: the failure is raised, and nobody waits for the other."""
    over = asyncio.Event()

    async def fails() -> None:
        raise RuntimeError("the stream said 500")

    async def stubborn() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    tasks: list[asyncio.Task[None]] = []

    async def spawn_tasks(**_: Any) -> list[asyncio.Task[None]]:
        tasks.extend([asyncio.create_task(stubborn()), asyncio.create_task(fails())])
        return tasks

    async def there(*_: Any) -> None:
        """The API server answers."""

    monkeypatch.setattr(main.kopf, "spawn_tasks", spawn_tasks)
    monkeypatch.setattr(main, "_wait_for_api", there)
    nobody: Any = None
    with pytest.raises(RuntimeError, match="the stream said 500"):
        await asyncio.wait_for(main._watch(SETTINGS, nobody, nobody, asyncio.Event(), asyncio.Event()), 20)
    assert not tasks[0].done()
    over.set()
    await tasks[0]


def test_a_task_that_will_not_end_is_left_behind() -> None:
    """The exit status is the one that the operator decided on."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", STUBBORN], env=environment, timeout=60, check=False)
    assert done.returncode == 7
