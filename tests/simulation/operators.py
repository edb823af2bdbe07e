"""The operator as a process of its own, as the chart starts it."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster.simulation import ControlPlane, free_ports
from tests.simulation.jobs import wait_for


class Operator:
    """One replica. `log` is what it wrote to stderr."""

    def __init__(self, plane: ControlPlane, log: Path, **settings: str) -> None:
        (self.port,) = free_ports(1)
        self.log = log
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")},
            "KUBECONFIG": str(plane.paths.kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "simulated/trainer:1",
            "FINETUNE_HTTP_HOST": "127.0.0.1",
            "FINETUNE_HTTP_PORT": str(self.port),
            **{f"FINETUNE_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; whatever ends the tests ends it too."""
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "finetune_operator"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=out, env=self._environment)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Wait until it has ended; returns its exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def wait_until_ready(self) -> None:
        """Wait until /readyz says so."""
        wait_for("the operator to be ready", lambda: self.answer("/readyz")[0] == 200)

    def answer(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self.signal(signal.SIGTERM)
        self.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
