"""Memory does not grow with the data, and what lies on the disk is found again exactly."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

FEW, MANY = 1_500, 10_000
GROWTH = 12_000_000
"""Bytes. Kept as numbers of four bytes the tokens alone would be 17 MB more, the text 34 MB, Python's lists 34 MB."""


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Many times the rows, from every container to the shards, need no more memory but a few bytes for each row."""
    script = Path(__file__).with_name("reads_much.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(FEW), str(MANY)],
        cwd=Path(__file__).parents[2], env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / str(MANY) / "rows.json").stat().st_size > 30_000_000
    assert int(done.stdout) < GROWTH
