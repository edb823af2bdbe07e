"""Training speed and memory, contenders side by side: each in a process of its own, segments in turn."""

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.machine import Load

TRUTH = "plain-fp32"
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
LOSS_TOLERANCE = {"bf16": 1e-2, "fp32": 2e-4}
"""Largest difference of a step's loss from TRUTH, as a share of it: rounding of the dtype, for the same tokens and the
same start. It adds up from step to step."""


class Contender:
    """A worker process of `bench.contenders`."""

    def __init__(self, name: str, folder: Path, length: int) -> None:
        self.name = name
        self.segments: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "bench.contenders", name, str(folder), str(length)]
        self._log = folder / f"{name}-{length}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=QUIET | os.environ
            )

    def ready(self) -> None:
        """Wait until it is built."""
        self._line()

    def run(self, steps: int) -> dict[str, Any]:
        """Let it take some steps while all others sleep."""
        before = Load.now(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        segment: dict[str, Any] = json.loads(self._line())
        segment["others"] = round(Load.now(self._process.pid).others_since(before), 2)
        return segment

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        """The next line that is ours; libraries print, too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(('{"steps"', "ready")):
                return line
        raise SystemExit(f"{self.name} has ended; see {self._log}.")


@contextmanager
def contenders(names: Sequence[str], folder: Path, length: int) -> Iterator[list[Contender]]:
    """All of them, built one after another."""
    started: list[Contender] = []
    try:
        for name in names:
            started.append(Contender(name, folder, length))
            started[-1].ready()
        yield started
    finally:
        for contender in started:
            contender.close()


def measure(names: Sequence[str], folder: Path, length: int, repeats: int, steps: int) -> dict[str, Any]:
    """Tokens per second and extra memory of every contender, after one step to warm up."""
    with contenders(names, folder, length) as all_of_them:
        for contender in all_of_them:
            contender.segments.append(contender.run(1))
        for _ in range(repeats):
            for contender in all_of_them:
                contender.segments.append(contender.run(steps))
                print(f"  {length}: {contender.name}: {_rate(contender.segments[-1]):.0f} tokens/s", flush=True)
        return {contender.name: _result(contender) for contender in all_of_them} | {"equal": _check_equal(all_of_them)}


def _rate(segment: dict[str, Any], clock: str = "seconds") -> float:
    return float(sum(s["tokens"] for s in segment["steps"]) / sum(s[clock] for s in segment["steps"]))


def _result(contender: Contender) -> dict[str, Any]:
    measured = contender.segments[1:]
    return {
        "tokens_per_second": [round(_rate(segment), 1) for segment in measured],
        "tokens_per_cpu_second": [round(_rate(segment, "cpu_seconds"), 1) for segment in measured],
        "extra_bytes": max(segment["extra"] for segment in contender.segments),
        "peak_bytes": max(segment["peak"] for segment in contender.segments),
        "others_cores": [segment["others"] for segment in measured],
        "losses": [round(step["loss"], 5) for step in _steps(contender)],
    }


def _steps(contender: Contender) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(segment["steps"] for segment in contender.segments))


def _check_equal(all_of_them: list[Contender]) -> dict[str, float]:
    """Same tokens at every step, same losses to rounding; returns each one's largest difference, as a share."""
    truth = _steps(next((c for c in all_of_them if c.name == TRUTH), all_of_them[0]))
    differences = {}
    for contender in all_of_them:
        steps = _steps(contender)
        if [s["ids"] for s in steps] != [s["ids"] for s in truth]:
            raise SystemExit(f"{contender.name} has trained other tokens, or in another order.")
        difference = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(steps, truth, strict=True))
        allowed = LOSS_TOLERANCE["fp32" if contender.name.endswith("fp32") else "bf16"]
        if difference > allowed:
            raise SystemExit(f"{contender.name}: a step's loss is off by {difference:.1%}; {allowed:.2%} is rounding.")
        differences[contender.name] = round(difference, 7)
    return differences


def ratios(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Repeat by repeat, for they ran side by side: smallest, median, largest."""
    values = [a / b for a, b in zip(ours, peer, strict=True)]
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
