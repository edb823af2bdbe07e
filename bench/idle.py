"""An idle cluster: what the operator writes and takes while nothing happens."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from bench.plane import FTJ, Audit, Shares, a_plane, api, each, megabytes, metric, until
from tests.simulation.jobs import job
from tests.simulation.operators import Operator

_SETTLE_SECONDS = 15.0


async def idle(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Suspended FineTuneJobs: each has its status, and waits. No pods are played."""
    with a_plane(folder / "p") as plane:
        bodies = [json.dumps(job(f"idle-{number}", suspend=True)).encode() for number in range(options.objects)]
        async with api(plane) as client:
            await each(bodies, lambda body: client.call("POST", FTJ, body), 16)
        with Operator(plane, folder / "operator.log") as operator:
            operator.wait_until_ready()
            assert operator.process is not None
            pid = operator.process.pid

            def seen() -> bool:
                text = operator.answer("/metrics")[1]
                return metric(text, "finetune_jobs") == options.objects and not metric(text, "finetune_workqueue_depth")

            await until("all to be seen", seen, 600)
            await asyncio.sleep(_SETTLE_SECONDS)
            audit, shares = Audit(plane), Shares(plane, pid)
            await asyncio.sleep(options.minutes * 60)
            cores, requests = shares.cores(), audit.counts("")
            mine = [
                entry for entry in audit.entries("finetune-operator") if entry["verb"] not in ("get", "list", "watch")
            ]
            writes = [entry for entry in mine if entry.get("objectRef", {}).get("resource") != "leases"]
            return {
                "minutes": options.minutes,
                "objects": options.objects,
                "writes_but_leases": len(writes),
                "operator_cores": cores["operator"],
                "cores": cores,
                "operator_rss_mb": megabytes(pid),
                "requests_of_all": requests,
            }
