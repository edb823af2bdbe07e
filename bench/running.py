"""Jobs that train: what the operator needs to follow a thousand of them, and to end two hundred at once."""

import argparse
import asyncio
import itertools
import json
import math
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.plane import FTJ, PODS, Api, Audit, Shares, a_plane, answered, api, each, megabytes, until
from finetune_api import names
from finetune_api.names import Stage
from localcluster.simulation import ControlPlane, Resource
from tests.simulation.jobs import PUBLISHED, job, lives
from tests.simulation.operators import Operator

_AT_ONCE = 16
_STEP_SECONDS = 1.0
_SETTLE_SECONDS = 20.0
_SECONDS = 60.0
_BARE_SECONDS = 10.0


async def progress(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A minute in the life of trainers that take a step a second: how old the statuses are, and what that takes."""
    async with _training(folder, options.running, options.workers) as (plane, client, operator, addresses):
        assert operator.process is not None
        began = time.time()
        trainers = await _serve(addresses, began)
        seen = f'finetune_jobs{{state="Training"}} {options.running:.1f}'
        await until("all to be heard", lambda: seen in operator.answer("/metrics")[1], 300)
        await asyncio.sleep(_SETTLE_SECONDS)
        audit, shares = Audit(plane), Shares(plane, operator.process.pid)
        before = time.time()
        await asyncio.sleep(_SECONDS)
        after, cores, rss = time.time(), shares.cores(), megabytes(operator.process.pid)
        operator.stop()
        trainers.close()
        writes, requests = _writes(audit), audit.counts("finetune-operator")
        bare = await _bare(client, sorted(writes), options.workers)
    ages = _ages(writes, began, before, after)
    return {
        "running": options.running,
        "age_seconds": _spread(ages),
        "written_jobs": len(writes),
        "writes_per_second": round(sum(map(len, writes.values())) / _SECONDS, 1),
        "bare_writes_per_second": bare,
        "operator_cores": cores["operator"],
        "cores": cores,
        "operator_rss_mb": rss,
        "requests": requests,
    }


async def finish(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All pods end at once: seconds from each one's end to its FineTuneJob's `Succeeded`."""
    async with _training(folder, options.ending, options.workers) as (plane, client, operator, _):
        assert operator.process is not None
        found = (pod["metadata"] for pod in (await client.call("GET", PODS))["items"] if _runs(pod))
        pods = {metadata["name"]: metadata["labels"][names.LABEL_JOB_NAME] for metadata in found}
        audit, shares = Audit(plane), Shares(plane, operator.process.pid)
        await each(pods, lambda name: client.call("PATCH", f"{PODS}/{name}/status", _over()), _AT_ONCE)
        await until("the verdicts", lambda: len(_verdicts(audit)) >= options.ending, 300, pause=1)
        cores, verdicts, ends = shares.cores(), _verdicts(audit), _ends(audit, pods)
    return {
        "ending": options.ending,
        "seconds": _spread([verdicts[name] - ends[name] for name in ends]),
        "pods_ended_within_seconds": round(max(ends.values()) - min(ends.values()), 1),
        "cores": cores,
        "requests": audit.counts("finetune-operator"),
        "milliseconds": audit.milliseconds("finetune-operator"),
    }


@asynccontextmanager
async def _training(
    folder: Path, count: int, workers: int
) -> AsyncIterator[tuple[ControlPlane, Api, Operator, list[str]]]:
    """So many FineTuneJobs whose trainers run, and never end by themselves; with their addresses."""
    stages = [stage for stage in lives() if stage["metadata"]["name"] != f"{Stage.TRAIN.value}-ends"]
    with a_plane(folder / "p", stages, nodes=math.ceil(count / 500)) as plane:
        async with api(plane) as client:
            with Operator(plane, folder / "operator.log", workers=str(workers)) as operator:
                operator.wait_until_ready()
                bodies = [json.dumps(job(f"run-{number}")).encode() for number in range(count)]
                await each(bodies, lambda body: client.call("POST", FTJ, body), _AT_ONCE)
                addresses: list[str] = []
                end = time.monotonic() + 900
                while len(addresses) < count and time.monotonic() < end:
                    await asyncio.sleep(3)
                    pods = (await client.call("GET", PODS))["items"]
                    addresses = [pod["status"]["podIP"] for pod in pods if _runs(pod)]
                assert len(addresses) == count, f"only {len(addresses)} trainers run"
                await asyncio.sleep(_SETTLE_SECONDS)
                yield plane, client, operator, addresses


async def _bare(client: Api, jobs: list[str], at_once: int) -> float:
    """What nobody can beat here: the same writes by a client that does nothing else, per second, for ten seconds."""
    end, done = time.monotonic() + _BARE_SECONDS, 0

    async def write(number: int) -> None:
        nonlocal done
        body = json.dumps({"status": {"progress": {"step": 1_000_000 + number, "loss": "1.5"}}})
        await client.call("PATCH", f"{FTJ}/{jobs[number % len(jobs)]}/status", body.encode())
        done += 1

    await each(itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()), write, at_once)
    return round(done / _BARE_SECONDS, 1)


async def _serve(addresses: list[str], began: float) -> asyncio.Server:
    """All trainers, in one process, each at its own address: a step a second since then."""

    async def answer(_: web.BaseRequest) -> web.Response:
        step = int((time.time() - began) / _STEP_SECONDS)
        return web.json_response(
            {
                "phase": "Training", "step": step, "totalSteps": 100_000, "resumedFrom": 0, "epoch": step / 1000,
                "loss": 1.0 + 1.0 / (1 + step), "etaSeconds": 100_000 - step, "updatedAt": began + step * _STEP_SECONDS,
            }
        )  # fmt: skip

    return await asyncio.get_running_loop().create_server(web.Server(answer), host=addresses, port=names.TRAINER_PORT)


def _runs(pod: Resource) -> bool:
    training = pod["metadata"]["labels"].get(names.LABEL_STAGE) == Stage.TRAIN.value
    return training and pod["status"]["phase"] == "Running" and "podIP" in pod["status"]


def _over() -> bytes:
    """What a kubelet writes when a trainer has ended well."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    terminated = {
        "exitCode": 0, "reason": "Completed", "message": PUBLISHED.to_termination_message(), "startedAt": now,
        "finishedAt": now,
    }  # fmt: skip
    container = {
        "name": names.TRAINER_CONTAINER,
        "image": "simulated",
        "imageID": "",
        "restartCount": 0,
        "ready": False,
    }
    status = {"phase": "Succeeded", "containerStatuses": [container | {"state": {"terminated": terminated}}]}
    return json.dumps({"status": status}).encode()


def _patches(audit: Audit) -> list[Resource]:
    """The operator's status patches that were accepted."""
    return [
        entry
        for entry in audit.entries("finetune-operator")
        if entry["objectRef"].get("subresource") == "status" and entry["responseStatus"]["code"] == 200
    ]


def _writes(audit: Audit) -> dict[str, list[tuple[float, int]]]:
    """Per FineTuneJob, when its status was written and the step that it said then."""
    found: dict[str, list[tuple[float, int]]] = {}
    for entry in _patches(audit):
        step = (entry["requestObject"]["status"].get("progress") or {}).get("step")
        if step is not None:
            found.setdefault(entry["objectRef"]["name"], []).append((answered(entry), int(step)))
    return found


def _ages(writes: dict[str, list[tuple[float, int]]], began: float, before: float, after: float) -> list[float]:
    """At every tenth of a second of that window, how long ago each status was true: the time of the step it shows."""
    ages = []
    for said in writes.values():
        now, known = max(before, said[0][0]), iter([*said[1:], (math.inf, 0)])
        (_, step), (following, next_step) = said[0], next(known)
        while now < after:
            while now >= following:
                step, (following, next_step) = next_step, next(known)
            ages.append(now - (began + step * _STEP_SECONDS))
            now += 0.1
    return ages


def _verdicts(audit: Audit) -> dict[str, float]:
    """When each FineTuneJob was said to have succeeded."""
    return {
        entry["objectRef"]["name"]: answered(entry)
        for entry in _patches(audit)
        for found in entry["requestObject"]["status"].get("conditions") or []
        if (found["type"], found["status"]) == ("Succeeded", "True")
    }


def _ends(audit: Audit, pods: dict[str, str]) -> dict[str, float]:
    """When the pod of each FineTuneJob was said to have ended; `pods` says whose each pod is."""
    patches = (entry for entry in audit.entries("bench") if entry["verb"] == "patch")
    return {
        pods[entry["objectRef"]["name"]]: answered(entry)
        for entry in patches
        if entry["objectRef"]["resource"] == "pods"
    }


def _spread(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    found = {"min": min(values), "p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 2) for name, value in found.items()}
