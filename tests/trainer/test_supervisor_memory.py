"""An out-of-memory kill is claimed on the kernel's word only, in either version of control groups."""

from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.supervisor.memory import Memory
from finetune_trainer.supervisor.supervise import Ending
from finetune_trainer.supervisor.verdict import verdict
from finetune_trainer.workdir import WorkDir

GIB = 1 << 30


def _machine(folder: Path, own: str, files: dict[str, str]) -> Memory:
    (folder / "own").write_text(own)
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    return Memory.of_this_process(folder / "cgroup", folder / "own")


def test_version_2(tmp_path: Path) -> None:
    """A container with a control group namespace sees its own files at the top."""
    events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
    memory = _machine(tmp_path, "0::/\n", {"memory.events": events, "memory.max": f"{8 * GIB}\n"})
    assert (memory.kills(), memory.limit()) == (2, 8 * GIB)


def test_version_2_below_the_top(tmp_path: Path) -> None:
    """Outside a namespace the path leads there."""
    files = {"user.slice/a/memory.events": "oom_kill 1\n", "user.slice/a/memory.max": "max\n"}
    memory = _machine(tmp_path, "0::/user.slice/a\n", files)
    assert (memory.kills(), memory.limit()) == (1, None)


@pytest.mark.parametrize("place", ["memory", "memory/kubepods/pod1"])
def test_version_1(tmp_path: Path, place: str) -> None:
    """The path is the host's, and the files are there or at the top of the mount."""
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
    files = {f"{place}/memory.oom_control": control, f"{place}/memory.limit_in_bytes": f"{2 * GIB}\n"}
    memory = _machine(tmp_path, "4:memory:/kubepods/pod1\n1:cpu:/\n0::/\n", files)
    assert (memory.kills(), memory.limit()) == (4, 2 * GIB)


def test_no_limit_in_version_1(tmp_path: Path) -> None:
    """Version 1 says no limit by a huge number."""
    files = {"memory/memory.oom_control": "oom_kill 0\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert _machine(tmp_path, "4:memory:/\n", files).limit() is None


def test_no_control_groups(tmp_path: Path) -> None:
    """A machine without them gives no evidence, and no error."""
    memory = Memory.of_this_process(tmp_path, tmp_path / "none")
    assert (memory.kills(), memory.limit()) == (0, None)


@pytest.mark.parametrize(
    ("code", "kills", "stop", "reason"),
    [
        (-9, 1, "", Reason.OUT_OF_MEMORY),
        (137, 1, "", Reason.OUT_OF_MEMORY),  # as the launcher says it
        (-9, 0, "", Reason.INTERNAL_ERROR),
        (-11, 1, "", Reason.INTERNAL_ERROR),
        (1, 1, "", Reason.INTERNAL_ERROR),
        (255, 1, "", Reason.INTERNAL_ERROR),
        (-9, 1, "SIGTERM", Reason.PREEMPTED),
    ],
)
def test_verdict(tmp_path: Path, code: int, kills: int, stop: str, reason: Reason) -> None:
    """Only SIGKILL together with the kernel's count is an out-of-memory kill; its exit code is 137."""
    outcome = verdict(Ending(code, stop), WorkDir(tmp_path), kills, 8 * GIB)
    assert outcome.reason is reason
    assert ("8.00 GiB" in outcome.message) == (reason is Reason.OUT_OF_MEMORY)
    assert Reason.OUT_OF_MEMORY.exit_code == 137


def test_verdict_of_the_worker(tmp_path: Path) -> None:
    """What the worker wrote wins over any evidence."""
    work = WorkDir(tmp_path)
    work.write_outcome(Outcome(reason=Reason.PUBLISHED, message="done"))
    assert verdict(Ending(-9, "SIGTERM"), work, 1, None).reason is Reason.PUBLISHED


@pytest.mark.parametrize(
    ("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (-11, "SIGSEGV"), (-40, "signal 40"), (255, ""), (75, "")]
)
def test_signal_name(code: int, name: str) -> None:
    """The signal is told by its name, and an ordinary exit code is none."""
    assert Ending(code).signal == name
