"""Nodes of one run on this machine: each a PID 1 of its own with a disk of its own, as in a pod, on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.outcome import Outcome
from finetune_api.run import RunFile
from finetune_trainer.supervisor import processes
from finetune_trainer.workdir import WorkDir

SECONDS = 240


def free_ports() -> int:
    """A port of loopback that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class Node:
    """A trainer under test: number `number` of the nodes of `run`, or the only one."""

    def __init__(self, run: RunFile, number: int, folder: Path, program: tuple[str, ...] = ("-m", "finetune_trainer")):
        self._folder = folder / f"node-{number}"
        self._folder.mkdir(parents=True)
        self.work = WorkDir(self._folder / "work")
        file = self._folder / "run.json"
        file.write_text(run.to_json())
        arguments = ["--run-file", str(file), "--work-dir", str(self.work.root), "--port", "0"]
        with (self._folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments, "--termination-log", str(self._folder / "log")],
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "JOB_COMPLETION_INDEX": str(number),
                    "TEST_WORK": str(self.work.root),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """All it has written."""
        return (self._folder / "output").read_text()

    def wait_for_step(self, step: int) -> None:
        """Until the worker has done so many steps."""
        while (progress := self.work.read_progress()) is None or progress.step < step:
            assert self.process.poll() is None, self.output
            time.sleep(0.01)

    def wait_for(self, words: str) -> None:
        """Until it has said that."""
        end = time.monotonic() + SECONDS
        while words not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)

    def all_processes(self) -> list[int]:
        """PID 1 and everything below it."""
        children, found = processes._children(), [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def send(self, number: signal.Signals, *, whole: bool = False) -> None:
        """Signal PID 1, or the whole node at once."""
        processes.send(self.all_processes() if whole else [self.process.pid], number)

    def ended(self) -> tuple[int, Outcome]:
        """Exit code and termination message."""
        code = self.process.wait(timeout=SECONDS)
        return code, Outcome.from_termination_message((self._folder / "log").read_text())


@contextmanager
def nodes(
    run: RunFile, folder: Path, count: int, program: tuple[str, ...] = ("-m", "finetune_trainer")
) -> Iterator[list[Node]]:
    """Start `count` nodes; what is left of them at the end is killed."""
    several = {"nodes": count, "coordinator": "127.0.0.1", "coordinator_port": free_ports()}
    run = run.model_copy(update=several) if count > 1 else run
    started = [Node(run, number, folder, program) for number in range(count)]
    try:
        yield started
    finally:
        for node in started:
            node.send(signal.SIGKILL, whole=True)
            node.process.wait()
