"""The helm binary that localcluster builds, and the chart rendered by it."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.state import Paths

CHART = Path(__file__).parents[2] / "charts" / "finetune-operator"
Objects = list[dict[str, Any]]
Helm = Callable[..., subprocess.CompletedProcess[str]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs helm; fails with the remedy where it is not built."""
    program = Paths.default().bin / "helm"
    if not program.is_file():
        pytest.fail(f"{program} is missing; `python -m localcluster binaries --only tools` builds it")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)

    return call


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders the chart with `--set` arguments into objects."""

    @functools.cache
    def rendered(values: tuple[str, ...]) -> str:
        sets = [part for value in values for part in ("--set", value)]
        done = helm("template", "release", str(CHART), "--namespace", "system", *sets)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(*values: str) -> Objects:
        return [document for document in yaml.load_all(rendered(values), Loader=yaml.CSafeLoader) if document]

    return call
