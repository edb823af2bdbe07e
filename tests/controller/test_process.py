"""The process around the reconciler: settings, probes, logs, progress polling, and how it ends."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from finetune_operator import logs, metrics
from finetune_operator.errors import SettingsError
from finetune_operator.health import Health, Server
from finetune_operator.progress import Poller
from finetune_operator.settings import Settings

KEY = ("research", "bot")


def test_bad_settings_are_named() -> None:
    """Every bad variable is named by the name it has in the environment, all at once."""
    given = {"FINETUNE_WORKERS": "many", "FINETUNE_LOG_FORMAT": "xml"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(given)
    for name in ("FINETUNE_WORKERS", "FINETUNE_LOG_FORMAT", "FINETUNE_TRAINER_IMAGE"):
        assert name in str(caught.value)


def test_namespaces_are_a_list() -> None:
    """Commas and blanks separate; nothing means the whole cluster."""
    assert Settings.from_environment({"FINETUNE_TRAINER_IMAGE": "t"}).namespaces == ()
    given = {"FINETUNE_TRAINER_IMAGE": "t", "FINETUNE_NAMESPACES": "a, b"}
    assert Settings.from_environment(given).namespaces == ("a", "b")


def test_help_teaches_every_setting() -> None:
    """`--help` needs no cluster and lists each variable; a missing required one ends with 2 and says which."""
    command = [sys.executable, "-m", "finetune_operator"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")}
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=clean).stdout
    for name in Settings.model_fields:
        assert f"FINETUNE_{name.upper()}" in told
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    assert refused.returncode == 2
    assert "FINETUNE_TRAINER_IMAGE" in refused.stderr


def test_sigterm_ends_it_in_time_even_before_the_api_answers(tmp_path: Any) -> None:
    """Asked to stop while it still waits for the API server, it ends by itself with 0."""
    user = {"name": "u", "user": {"token": "none"}}
    where = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}  # nobody listens on the discard port
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    config |= {"clusters": [where], "users": [user], "contexts": [context]}
    (tmp_path / "config").write_text(json.dumps(config))
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "config"), "FINETUNE_TRAINER_IMAGE": "t"}
    environment |= {"FINETUNE_HTTP_PORT": "0", "FINETUNE_HTTP_HOST": "127.0.0.1"}
    command = [sys.executable, "-m", "finetune_operator"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waiting for FineTuneJobs" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def get(server: Server, path: str) -> tuple[int, str]:
    """Ask the server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_probes() -> None:
    """Alive while the event loop turns, ready once it watches; and asked from outside the loop's thread."""
    clock = [0.0]
    health = Health(lambda: clock[0])
    server = Server("127.0.0.1", 0, health, metrics.render)
    try:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/readyz")[0] == 503
        health.ready = True
        assert get(server, "/readyz")[0] == 200
        clock[0] = 31
        assert get(server, "/healthz")[0] == 503
        health.beat()
        assert get(server, "/healthz")[0] == 200
        assert "finetune_reconcile_total" in get(server, "/metrics")[1]
        assert get(server, "/")[0] == 404
    finally:
        server.close()


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging and Python's hooks are put back, pytest's own among them."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    for place, hook in ((sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(place, hook, getattr(place, hook))
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = before, level


@pytest.mark.filterwarnings("always")
@pytest.mark.usefixtures("as_before")
def test_json_logs(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line, with the error and the object in it, also where nobody catches the error."""
    logs.set_up("json", "INFO")
    logger = logging.getLogger("finetune_operator")
    try:
        raise OSError("no route")
    except OSError as error:
        caught = error
        logger.exception("Starting", extra={"about": (*KEY, "uid-1")})
    logger.info("a second\nline", extra={"about": KEY})
    logging.getLogger("kopf").warning("its own way", extra={"k8s_ref": {"kind": "Job", "name": "j", "uid": "u"}})
    sys.excepthook(OSError, caught, caught.__traceback__)
    ended = threading.Thread(target=lambda: 1 / 0)
    ended.start()
    ended.join()
    warnings.warn("old", DeprecationWarning, stacklevel=1)

    first, second, third, fourth, fifth, sixth = map(json.loads, capsys.readouterr().err.splitlines())
    about = {"namespace": KEY[0], "name": KEY[1]}
    assert (first["level"], first["message"], first["object"]) == ("error", "Starting", {**about, "uid": "uid-1"})
    assert "no route" in first["error"]
    assert (second["message"], second["object"]) == ("a second\nline", about)
    assert third["object"] == {"kind": "Job", "name": "j", "uid": "u"}
    assert (fourth["level"], fourth["message"]) == ("critical", "the process ends: no route")
    assert (fifth["level"], fifth["message"]) == ("error", "a thread ended: division by zero")
    assert "ZeroDivisionError" in fifth["error"]
    assert "DeprecationWarning: old" in sixth["message"]
    assert not [key for line in (fourth, fifth, sixth) for key in line if key == "object"]


def test_bad_settings_are_told_in_json_too() -> None:
    """Where that is the format, the first line of a process that cannot start is one object as well."""
    given = {"FINETUNE_LOG_FORMAT": "json", "FINETUNE_WORKERS": "many", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "finetune_operator"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    (line,) = refused.stderr.splitlines()
    assert (refused.returncode, json.loads(line)["level"]) == (2, "critical")
    assert "FINETUNE_WORKERS" in json.loads(line)["message"]


async def poll(answers: list[Any], seconds: float = 1.2) -> tuple[Poller, list[Any]]:
    """Poll a trainer that gives these answers, the last one for ever."""
    asked: list[Any] = []
    changed: list[Any] = []

    async def progress(_: web.Request) -> web.Response:
        asked.append(1)
        status, text = answers.pop(0) if len(answers) > 1 else answers[0]
        return web.Response(status=status, text=text)

    application = web.Application()
    application.router.add_get("/progress", progress)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    poller = Poller(0.1, changed.append, port=runner.addresses[0][1])
    poller.follow(KEY, 1, "127.0.0.1")
    task = asyncio.create_task(poller.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.cleanup()
    assert asked
    return poller, changed


async def test_progress_is_news_only_when_it_changed() -> None:
    """The same answer again wakes nobody."""
    text = json.dumps({"phase": "Training", "step": 3, "totalSteps": 10, "loss": 1.5})
    poller, changed = await poll([(200, text)])
    assert changed == [KEY]
    said = poller.last(KEY, 1, "127.0.0.1")
    assert said is not None
    assert (said.step, said.percent) == (3, 30)


@pytest.mark.parametrize("bad", [(500, "{}"), (200, "<html>"), (200, '{"step": -1}'), (302, "")])
async def test_unreadable_progress_changes_nothing(bad: tuple[int, str]) -> None:
    """Errors, garbage and redirects leave the last word standing."""
    good = (200, json.dumps({"phase": "Training", "step": 3}))
    poller, changed = await poll([good, bad])
    assert changed == [KEY]
    said = poller.last(KEY, 1, "127.0.0.1")
    assert said is not None
    assert said.step == 3


async def test_another_attempt_starts_with_a_blank_page() -> None:
    """What attempt 1 said is not shown for attempt 2, nor for a pod at another address."""
    poller, _ = await poll([(200, json.dumps({"step": 3}))])
    assert poller.last(KEY, 2, "127.0.0.1") is None
    assert poller.last(KEY, 1, "127.0.0.2") is None
    poller.follow(KEY, 1, None)
    assert poller.last(KEY, 1, "127.0.0.1") is None
