"""Runs of several processes without the price of an import each: forked from one that has imported everything."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune_api.outcome import Outcome
from finetune_api.run import RunFile
from finetune_trainer.workdir import WorkDir
from tests.tiny import jsonl
from tests.trainer.tinyrun import run_file

STEPS = 6


def uneven_rows(count: int, start: int = 0) -> str:
    """Chats whose answers differ in length, so that no two processes train as many tokens."""
    answers = [" ".join(["It", "is"] + [str(n)] * (1 + n * 7 % 5)) + "." for n in range(start, start + count)]
    return jsonl(
        [
            {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": answer}]}
            for n, answer in enumerate(answers, start=start)
        ]
    )


def shared_run(
    folder: Path, model: Path, strategy: str, processes: int, method: dict[str, Any], nodes: int = 1
) -> RunFile:
    """Six steps of two micro-batches a process, and held-out rows that do not divide evenly among two processes.

    `processes` are those of all nodes together.
    """
    run = run_file(
        folder, model, method={"dropout": "0", **method}, parallelism={"strategy": strategy},
        batchSize=8, microBatchSize=8 // processes // 2, maxSteps=STEPS, epochs=9,
    )  # fmt: skip
    (folder / "train.jsonl").write_text(uneven_rows(24))
    (folder / "eval.jsonl").write_text(uneven_rows(5, start=100))
    evaluation = run.evaluation.model_copy(update={"every_steps": 3, "batch_size": 2})
    shape = {"processes": processes // nodes, "nodes": nodes, "coordinator": "127.0.0.1"}
    return run.model_copy(update={**shape, "evaluation": evaluation})


class Ranks:
    """Forks the workers of one run after the other."""

    def __init__(self) -> None:
        program = [sys.executable, "-m", "tests.trainer.forked_ranks"]
        self._server = subprocess.Popen(
            program,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, run: RunFile, work: Path, stop: dict[int, int] | None = None, broken: str = "") -> list[int]:
        """The exit codes of the workers; see `forked_ranks` for `stop` and `broken`."""
        file = work.with_suffix(".json")
        file.write_text(run.to_json())
        shape = {"processes": run.processes, "nodes": run.nodes}
        task = {"run": str(file), "work": str(work), **shape, "stop": stop or {}, "broken": broken}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        codes: list[int] = json.loads(self._server.stdout.readline())
        return codes

    def close(self) -> None:
        """End the process they are forked from."""
        self._server.communicate()


def outcome(work: Path) -> Outcome:
    """What the workers wrote at their end."""
    written = WorkDir(work).read_outcome()
    assert written is not None, Path(f"{work}.0.output").read_text()
    return written


def logged(work: Path, name: str) -> list[float]:
    """Every value of that name in metrics.jsonl, over all sessions of the run."""
    entries = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]
