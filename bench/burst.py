"""A burst of FineTuneJobs: how fast they become child Jobs, beside a bare client that only creates the same Jobs."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.plane import FTJ, JOBS, Api, Audit, Shares, a_plane, answered, api, each, megabytes, metric, until
from finetune_api.load import parse_job
from finetune_api.names import Stage
from finetune_operator.desired import job_manifest
from finetune_operator.settings import Settings
from localcluster.simulation import ControlPlane
from tests.simulation.jobs import NAMESPACE, job
from tests.simulation.operators import Operator

_AT_ONCE = 16


async def burst(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Jobs per second of both, one after the other on one control plane; no pods are played, the controllers run."""
    with a_plane(folder / "p") as plane:
        async with api(plane) as client:
            bare = await _bare(client, options.jobs, options.workers)
            await client.call("DELETE", JOBS, {"propagationPolicy": "Background"})
            await until("the bare client's Jobs to go", _none(plane), 300, pause=2)
            with Operator(plane, folder / "operator.log", workers=str(options.workers)) as operator:
                operator.wait_until_ready()
                ours = await _ours(plane, client, operator, options.jobs)
    return {"bare_jobs_per_second": bare, **ours, "ratio": round(ours["jobs_per_second"] / bare, 2)}


async def _bare(client: Api, count: int, at_once: int) -> float:
    """The manifests without owners: the garbage collector would take them."""
    settings = Settings(trainer_image="simulated/trainer:1")
    bodies = []
    for number in range(count):
        resource = job(f"bare-{number}", resources={"gpus": 1})
        manifest = job_manifest(
            parse_job(resource), namespace=NAMESPACE, uid=f"{number:036d}", stage=Stage.PREPARE, attempt=1,
            settings=settings,
        )  # fmt: skip
        del manifest["metadata"]["ownerReferences"]
        bodies.append(json.dumps(manifest).encode())
    started = time.monotonic()
    await each(bodies, lambda body: client.call("POST", JOBS, body), at_once)
    return round(count / (time.monotonic() - started), 1)


async def _ours(plane: ControlPlane, client: Api, operator: Operator, count: int) -> dict[str, Any]:
    """From the first FineTuneJob's creation to the last Job's, by the audit log."""
    assert operator.process is not None
    pid, audit, shares = operator.process.pid, Audit(plane), Shares(plane, operator.process.pid)
    bodies = [json.dumps(job(f"burst-{number}")).encode() for number in range(count)]
    await each(bodies, lambda body: client.call("POST", FTJ, body), _AT_ONCE)

    def created() -> list[float]:
        found = (entry for entry in audit.entries("finetune-operator") if entry["verb"] == "create")
        jobs = [
            answered(e) for e in found if e["objectRef"]["resource"] == "jobs" and e["responseStatus"]["code"] == 201
        ]
        return jobs if len(jobs) >= count else []

    jobs = await until("the child Jobs", created, 900, pause=2)
    cores = shares.cores()
    first = min(answered(e) for e in audit.entries("bench") if e["objectRef"].get("resource") == "finetunejobs")
    last = max(answered(e) for e in audit.entries("bench") if e["objectRef"].get("resource") == "finetunejobs")
    return {
        "jobs": len(jobs),
        "jobs_per_second": round(count / (max(jobs) - first), 1),
        "finetunejobs_created_per_second": round(count / (last - first), 1),
        "cores": cores,
        "operator_rss_mb": megabytes(pid),
        "pass_milliseconds": _mean_pass(operator.answer("/metrics")[1]),
        "requests": audit.counts("finetune-operator"),
        "milliseconds": audit.milliseconds("finetune-operator"),
        "bench_milliseconds": audit.milliseconds("bench"),
    }


def _mean_pass(text: str) -> float:
    """The time a worker has a FineTuneJob in its hands; where it is short and jobs are few, workers wait for keys."""
    total, count = (metric(text, f"finetune_reconcile_duration_seconds_{part}") for part in ("sum", "count"))
    return round(1000 * total / max(count, 1), 1)


def _none(plane: ControlPlane) -> Any:
    return lambda: not plane.kubectl("-n", NAMESPACE, "get", "jobs,pods", "-oname", timeout=120).strip()
