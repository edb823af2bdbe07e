"""A checkpoint as far as storage looks at it: the files that a run needs to go on, each with its step inside."""

from pathlib import Path

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def make_checkpoint(folder: Path, step: int, size: int = 0) -> Path:
    """Write one; `size` bytes of ballast each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(f"{name} of step {step}".encode() + b"." * size)
    return folder


def check_checkpoint(folder: Path) -> int:
    """Every file is there and of the same step, which is returned."""
    steps = {int((folder / name).read_bytes().rstrip(b".").removeprefix(f"{name} of step ".encode())) for name in FILES}
    assert len(steps) == 1, steps
    return steps.pop()
