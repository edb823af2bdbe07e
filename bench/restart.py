"""A restart in front of many FineTuneJobs: when the operator is through with them, and what it takes.

Two of three are over, and one waits in a queue of Kueue.
"""

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.plane import FTJ, JOBS, Api, Audit, Shares, a_plane, api, each, megabytes, metric, until
from finetune_api.load import parse_job
from finetune_api.names import Stage
from finetune_operator.desired import job_manifest
from finetune_operator.settings import Settings
from tests.simulation.jobs import NAMESPACE, job
from tests.simulation.operators import Operator

_AT_ONCE = 16
_REPEATS = 3


async def restart(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the start of the process until each job is counted and no pass is due; three starts.

    One more before them is not counted: it writes what statuses made by hand lack.
    """
    with a_plane(folder / "p") as plane:
        async with api(plane) as client:
            make = {number: _queued if number % 3 == 0 else _finished for number in range(options.many)}
            await each(make, lambda number: make[number](client, number), _AT_ONCE)
        found: dict[str, list[Any]] = {"seconds": [], "rss_mb": [], "peak_rss_mb": [], "operator_cpu_seconds": []}
        for number in range(_REPEATS + 1):
            audit = Audit(plane)
            with Operator(plane, folder / f"operator-{number}.log") as operator:
                assert operator.process is not None
                started, pid = time.monotonic(), operator.process.pid
                shares = Shares(plane, pid)
                await until("all to be counted", _through(operator, options.many), 900)
                seconds = time.monotonic() - started
                if not number:
                    operator.stop()
                    continue
                found["seconds"].append(round(seconds, 1))
                found["operator_cpu_seconds"].append(round(shares.cores()["operator"] * seconds, 1))
                await asyncio.sleep(5)
                found["rss_mb"].append(megabytes(pid))
                found["peak_rss_mb"].append(megabytes(pid, "VmHWM"))
                operator.stop()
            requests = audit.counts("finetune-operator")
        return {"objects": options.many, **found, "requests": requests}


def _through(operator: Operator, count: int) -> Any:
    def seen() -> bool:
        text = operator.answer("/metrics")[1]
        return metric(text, "finetune_jobs") == count and not metric(text, "finetune_workqueue_depth")

    return seen


async def _queued(client: Api, number: int) -> None:
    """One FineTuneJob whose Job waits in a queue, as Kueue keeps it there."""
    made = await client.call("POST", FTJ, json.dumps(job(f"queued-{number}", queueName="team")).encode())
    manifest = job_manifest(
        parse_job(made), namespace=NAMESPACE, uid=made["metadata"]["uid"], stage=Stage.PREPARE, attempt=1,
        settings=Settings(trainer_image="simulated/trainer:1"),
    )  # fmt: skip
    manifest["spec"]["managedBy"] = "bench.example/nobody"
    await client.call("POST", JOBS, json.dumps(manifest).encode())


async def _finished(client: Api, number: int) -> None:
    """One FineTuneJob with its verdict, and the Job that trained, which is over as well."""
    made = await client.call("POST", FTJ, json.dumps(job(f"over-{number}")).encode())
    name, uid = made["metadata"]["name"], made["metadata"]["uid"]
    manifest = job_manifest(
        parse_job(made), namespace=NAMESPACE, uid=uid, stage=Stage.TRAIN, attempt=1,
        settings=Settings(trainer_image="simulated/trainer:1"), micro_batch_size=1,
    )  # fmt: skip
    manifest["spec"]["managedBy"] = "bench.example/nobody"  # the Job controller shall not touch it
    child = await client.call("POST", JOBS, json.dumps(manifest).encode())
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    over = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 81 matching"}
    stopped = [over | {"lastTransitionTime": now}, over | {"type": "FailureTarget", "lastTransitionTime": now}]
    status = {"status": {"startTime": now, "conditions": stopped, "failed": 1, "uncountedTerminatedPods": {}}}
    await client.call("PATCH", f"{JOBS}/{child['metadata']['name']}/status", json.dumps(status).encode())
    await client.call("PATCH", f"{FTJ}/{name}/status", json.dumps({"status": _verdict(child, now)}).encode())


def _verdict(child: dict[str, Any], now: str) -> dict[str, Any]:
    said = {"reason": "Diverged", "message": "the loss went up and stayed there"}
    kinds = {"Succeeded": "False", "Prepared": "True", "Suspended": "False", "Reconciling": "False", "Stalled": "True"}
    conditions = [
        {"type": kind, "status": value, "lastTransitionTime": now, "observedGeneration": 1, **said}
        for kind, value in kinds.items()
    ]
    attempt = {"stage": "train", "number": 1, "jobName": child["metadata"]["name"], "startTime": now, **said}
    return {
        "observedGeneration": 1,
        "conditions": conditions,
        "attempts": [attempt | {"completionTime": now, "exitCode": 81}],
        "attempt": 1,
        "jobName": child["metadata"]["name"],
        "modelName": "tiny",
        "startTime": now,
        "completionTime": now,
        "failures": 1,
        "preemptions": 0,
    }
