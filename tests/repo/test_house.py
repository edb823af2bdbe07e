"""The house itself: what may not exist, what may not be imported, and that the README tells the truth about it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_api import __version__

ROOT = Path(__file__).parents[2]
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
PYTHON = [path for path in TRACKED if path.suffix == ".py"]


def test_operator_is_no_package() -> None:
    """A package named `operator` would hide the standard library's."""
    assert not (ROOT / "operator/__init__.py").exists()
    assert not (ROOT / "operator/src/__init__.py").exists()
    assert not [path for path in TRACKED if path.name == "__init__.py" and path.is_relative_to(ROOT / "tests")]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("finetune_operator.main", {"torch", "transformers", "boto3", "peft"}),
        ("finetune_trainer.__main__", {"torch", "transformers", "peft", "kopf", "kubernetes"}),
        ("finetune_cli.main", {"torch", "transformers", "kopf", "kubernetes", "boto3"}),
        ("finetune_api.load", {"torch", "kopf", "kubernetes", "boto3", "typer"}),
    ],
)
def test_light_processes_import_nothing_heavy(module: str, heavy: set[str]) -> None:
    """A fresh interpreter that imports the module has none of these in it."""
    program = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert not heavy & set(loaded)


def test_small_files_and_functions() -> None:
    """No file over 400 lines, no function over 60: nobody holds more in the head."""
    for path in PYTHON:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.lineno} {node.name}"


def test_readme_tree_is_the_real_tree() -> None:
    """Every path of the README's tree exists, and no folder at the top is left out of it."""
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    parents: list[str] = []
    named = set()
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        paths = re.split(r"\s{2,}", line.strip())[0].split()
        for path in paths:
            whole = "/".join([*parents[:depth], path.rstrip("/")])
            assert (ROOT / whole).exists(), f"README names {whole}"
            named.add(whole)
        parents = [*parents[:depth], paths[0].rstrip("/")]

    top = {path.relative_to(ROOT).parts[0] for path in TRACKED if len(path.relative_to(ROOT).parts) > 1}
    assert {name for name in top if not name.startswith(".")} <= named


def test_no_machine_in_the_repository() -> None:
    """No path of a developer's home or of this workplace, whoever wrote it."""
    private = re.compile("/" + "work/(main|shared)|/" + "root/|/" + r"home/\w+/")
    for path in TRACKED:
        if path.suffix in (".lock", ".sum"):
            continue
        found = private.search(path.read_text(errors="ignore"))
        assert found is None, f"{path}: {found and found[0]}"


def test_one_version_everywhere() -> None:
    """The chart, its appVersion and the newest release in the changelog are the project's version."""
    chart = yaml.safe_load((ROOT / "charts/finetune-operator/Chart.yaml").read_text())
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert chart["version"] == chart["appVersion"] == __version__
    assert not released or released[0] == __version__
