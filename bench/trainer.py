"""The trainer beside its peers: speed, memory, data preparation, start.

    make bench-trainer                             everything, >= 3 interleaved repeats; needs a quiet machine
    python -m bench.trainer --help                 fewer repeats, one thread, some contenders only

Prints the table, writes bench/results.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import preparing, starting, training
from bench.machine import Load, describe
from bench.rows import write
from bench.table import render
from bench.training import QUIET

HERE = Path(__file__).parent
NAMES = ("trl", "plain-bf16", "ours-bf16", "ours-bf16-gc", "plain-fp32", "ours-fp32")


def main() -> None:
    """Measure and report."""
    options = _parser().parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _python("bench.prepare", folder, options.rows, *options.lengths)
    results: dict[str, Any] = {"machine": describe() | {"threads": options.threads or os.cpu_count()}, "training": {}}
    for length in options.lengths:
        repeats = options.repeats if length <= 1024 else options.long_repeats
        steps = options.steps if length <= 1024 else 1
        (folder / "start.pt").unlink(missing_ok=True)
        results["training"][str(length)] = training.measure(options.only, folder, length, repeats, steps)
        _save(options.output, results)
    if not options.only_training:
        results["preparing"] = _preparing(folder, options)
        _save(options.output, results)
        results["starting"] = _starting(folder, options)
        _save(options.output, results)
        results["saving"] = _saving(folder, options)
    _save(options.output, results)
    print(render(results))


def _preparing(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rows per second of each side, in turn."""
    write(folder / "many.jsonl", options.many_rows, seed=12)

    def side(name: str) -> float:
        done = _python("bench.preparing", name, folder, 2048)
        return float(options.many_rows / json.loads(done.strip().splitlines()[-1])["seconds"])

    return _in_turn({name: partial(side, name) for name in preparing.SIDES}, options.repeats)


def _starting(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each side, in turn; the first round warms the page cache and does not count."""
    first = {name: partial(starting.first_step, name, folder, 512) for name in ("ours", "trl")}
    refused = {name: partial(starting.refusal, name, folder) for name in ("ours", "trl")}
    return {
        "first_step": _in_turn(first, options.repeats, warm=1),
        "refusal": _in_turn(refused, options.repeats, warm=1),
    }


def _saving(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Standstills of the loop, the sides in turn within one process."""
    done = _python("bench.saving", folder, options.lengths[0], options.repeats, options.steps)
    found: dict[str, Any] = json.loads(done.strip().splitlines()[-1])
    return found


def _in_turn(sides: Mapping[str, Callable[[], float]], repeats: int, warm: int = 0) -> dict[str, Any]:
    """Each side once, then each again; with what others had of the machine meanwhile."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    before = Load.now(os.getpid())
    for round_ in range(repeats + warm):
        for name, measure in sides.items():
            value = measure()
            print(f"  {name}: {value:.2f}", flush=True)
            if round_ >= warm:
                values[name].append(round(value, 3))
    return values | {"others_cores": [round(Load.now(os.getpid()).others_since(before), 2)]}


def _python(module: str, *arguments: object) -> str:
    """Run a module of the benchmark and return what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=QUIET | os.environ, check=False)
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _save(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.trainer", description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--folder", type=Path, default=HERE.parent / ".cache/bench", help="model, rows and scratch files")
    add("--output", type=Path, default=HERE / "results.json", help="where the numbers go")
    add("--rows", type=int, default=150, help="chats to train (default: %(default)s)")
    add("--lengths", type=int, nargs="+", default=[512, 2048], help="tokens of a pack (default: %(default)s)")
    add("--repeats", type=int, default=3, help="interleaved repeats (default: %(default)s)")
    add("--long-repeats", type=int, default=3, help="the same, for packs over 1024 tokens (default: %(default)s)")
    add("--steps", type=int, default=2, help="steps of a repeat; over 1024 tokens always 1 (default: %(default)s)")
    add("--many-rows", type=int, default=4000, help="chats to prepare (default: %(default)s)")
    add("--threads", type=int, default=0, help="0: all cores. With neighbours on the machine 1 disturbs less")
    add("--only", nargs="+", default=NAMES, choices=NAMES, help="contenders of the training table")
    add("--only-training", action="store_true", help="leave out data preparation, start and checkpoints")
    return parser


if __name__ == "__main__":
    main()
