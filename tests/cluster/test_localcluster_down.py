"""Whatever happened to `up`, `down` leaves the machine as it was.

These laws are proved on a second cluster beside the first, with a state folder and networks of its own, so that
nobody's cluster is taken down for a test. Its programs are links to those that are built already.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcluster import binaries, process, state
from localcluster.state import Paths

pytestmark = pytest.mark.cluster

NUMBER = "7"


@dataclass(frozen=True)
class Second:
    """The second cluster's state folder, and the command line over it."""

    root: Path

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a localcluster command, as in a terminal: whose parent ignores SIGINT would ignore it, too."""
        return subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "localcluster", command],
            env={**os.environ, "LOCALCLUSTER_DIR": str(self.root), "LOCALCLUSTER_NUMBER": NUMBER},
            cwd=state.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, str]:
        """Run a localcluster command and return its exit code and all it said."""
        program = self.start(command)
        output, _ = program.communicate(timeout=120)
        return program.returncode, output

    def replace_program(self, name: str, script: str) -> None:
        """Put a shell script in the place of one of the cluster's programs."""
        program = Paths(self.root).bin / name
        program.unlink()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def traces(self) -> dict[str, set[str]]:
        """Return all that a cluster may leave on a machine."""
        ip = ["ip", "-oneline"]
        return {
            "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
            "links": {line.split()[1] for line in process.run([*ip, "link"]).splitlines()},
            "routes": set(process.run([*ip, "route"]).splitlines()),
            "cgroups": {str(folder) for folder in Path("/sys/fs/cgroup").glob("*/*/") if "localcluster" in folder.name},
            "processes": {str(pid) for pid in process.every() if self._ours(pid)},
            "state": {str(self.root / "run")} if (self.root / "run").exists() else set(),
        }

    def _ours(self, pid: int) -> bool:
        return pid != os.getpid() and process.alive(pid) and str(self.root) in process.command_line(pid)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Second]:
    """A second cluster's folder; whatever a test leaves of the cluster is taken down."""
    built = Paths.default().bin
    if binaries.missing(Paths.default()):
        pytest.fail("The cluster's programs are not built: python -m localcluster binaries", pytrace=False)
    second = Second(tmp_path)
    links = tmp_path / "bin" / built.name
    links.mkdir(parents=True)
    for program in built.iterdir():
        (links / program.name).symlink_to(program)
    yield second
    second.run("down")


def test_up_twice_then_down_leaves_no_trace(second: Second) -> None:
    """Up is idempotent; down removes what up made, and nothing else."""
    before = second.traces()

    code, output = second.run("up")
    assert code == 0, output
    assert second.traces() != before
    code, output = second.run("up")
    assert (code, "up already" in output) == (0, True), output
    assert second.run("status")[0] == 0
    code, output = second.run("down")

    assert code == 0, output
    assert second.traces() == before
    assert second.run("status")[0] == 1
    assert second.run("down")[0] == 0  # twice is no error


def test_an_up_that_fails_says_why_keeps_its_logs_and_leaves_no_trace(second: Second) -> None:
    """The message has the failing program's last words; the half-started cluster is gone."""
    before = second.traces()
    second.replace_program("kube-apiserver", "echo this flag is wrong; exit 1")

    code, output = second.run("up")

    assert code == 1
    assert "kube-apiserver ended by itself" in output
    assert "this flag is wrong" in output
    assert (second.root / "logs-last-failure" / "kube-apiserver.log").exists()
    assert second.traces() == before


@pytest.mark.parametrize("moment", ["certificates are there", "containerd answers", "API server is ready"])
def test_an_interrupted_up_leaves_no_trace(second: Second, moment: str) -> None:
    """Ctrl-C at any moment of `up`: after each thing that it says it has done."""
    before = second.traces()

    up = second.start("up")
    assert up.stdout
    assert any(moment in line for line in up.stdout)
    up.send_signal(signal.SIGINT)
    output, _ = up.communicate(timeout=60)

    assert up.returncode == 130, output
    assert second.traces() == before


def test_down_cleans_after_an_up_that_was_killed(second: Second) -> None:
    """Nothing needs to be remembered for `down` to find it: `up` had no chance to."""
    before = second.traces()

    up = second.start("up")
    assert up.stdout
    assert any("containerd answers" in line for line in up.stdout)
    up.kill()
    up.communicate(timeout=60)
    code, output = second.run("down")

    assert code == 0, output
    assert second.traces() == before


def test_up_cleans_what_a_dead_cluster_left(second: Second) -> None:
    """After a crash of the whole node, plain `up` is enough."""
    assert second.run("up")[0] == 0
    process.end(process.find(Paths(second.root).init), signal.SIGKILL)
    code, output = second.run("up")

    assert code == 0, output
    assert "Cleaned up" in output
    assert second.run("status")[0] == 0
