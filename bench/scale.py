"""The operator at scale on a simulated control plane; counts come from the API server's audit log and from /proc.

    make bench-operator                            every part
    python -m bench.scale burst --jobs 500         one part, smaller

Prints a line for each number, writes bench/scale.json.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.burst import burst
from bench.clients import clients
from bench.idle import idle
from bench.machine import describe
from bench.restart import restart
from bench.running import finish, progress

HERE = Path(__file__).parent
PARTS = {
    "burst": burst,
    "idle": idle,
    "restart": restart,
    "progress": progress,
    "finish": finish,
    "clients": clients,
}


def main() -> None:
    """Measure and report."""
    options = _parser().parse_args()
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    for part in options.parts or PARTS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            found = asyncio.run(PARTS[part](Path(folder), options))
        machine = describe(("kopf", "kubernetes", "aiohttp", "pydantic"))
        results[part] = found | {"machine": machine, "seconds": round(time.monotonic() - started)}
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        for name, value in found.items():
            print(f"{part}: {name}: {value}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.scale", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    add("--output", type=Path, default=HERE / "scale.json", help="where the numbers go; other parts' stay")
    add("--jobs", type=int, default=2000, help="FineTuneJobs of the burst (default: %(default)s)")
    add("--objects", type=int, default=1000, help="FineTuneJobs of the idle cluster (default: %(default)s)")
    add("--many", type=int, default=10_000, help="FineTuneJobs that a restart finds (default: %(default)s)")
    add("--running", type=int, default=1000, help="FineTuneJobs whose progress is followed (default: %(default)s)")
    add("--ending", type=int, default=200, help="FineTuneJobs that end at once (default: %(default)s)")
    add("--repeats", type=int, default=3, help="rounds of all clients (default: %(default)s)")
    add("--minutes", type=float, default=10, help="of idleness (default: %(default)s)")
    add("--workers", type=int, default=8, help="passes at once, and requests of the bare client (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
