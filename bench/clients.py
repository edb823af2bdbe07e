"""What a client of Kubernetes costs: the reads of a pass per second, CPU and memory, client beside client."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from bench.plane import FTJ, JOBS, Api, a_plane, api, each
from bench.reading import CLIENTS
from finetune_api.load import parse_job
from finetune_api.names import Stage
from finetune_operator.desired import job_manifest
from finetune_operator.settings import Settings
from tests.simulation.jobs import NAMESPACE, job

_OBJECTS = 200


async def clients(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each client in turn, some rounds: what it did in eight seconds."""
    with a_plane(folder / "p") as plane:
        objects = folder / "objects.json"
        uids: dict[str, str] = {}

        async def make(number: int) -> None:
            name, uid = await _one(client, f"read-{number}")
            uids[name] = uid

        async with api(plane) as client:
            await each(range(_OBJECTS), make, 8)
        objects.write_text(json.dumps(uids))
        found: dict[str, dict[str, list[float]]] = {name: {} for name in CLIENTS}
        for _ in range(options.repeats):
            for name in CLIENTS:
                for what, value in (await _measure(name, plane.paths.kubeconfig, objects)).items():
                    found[name].setdefault(what, []).append(value)
    return found


async def _one(client: Api, name: str) -> tuple[str, str]:
    """A FineTuneJob with a Job, both suspended; returns its name and uid."""
    made = await client.call("POST", FTJ, job(name, suspend=True))
    uid: str = made["metadata"]["uid"]
    manifest = job_manifest(
        parse_job(made), namespace=NAMESPACE, uid=uid, stage=Stage.PREPARE, attempt=1,
        settings=Settings(trainer_image="simulated/trainer:1"),
    )  # fmt: skip
    manifest["spec"]["suspend"] = True
    await client.call("POST", JOBS, manifest)
    return name, uid


async def _measure(name: str, *arguments: Path) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.reading", name, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{name} failed"
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found
