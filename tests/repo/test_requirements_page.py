"""The page of requirements names tests that are there, and leaves none of the forty out."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "requirements.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_named_test_exists() -> None:
    """By file and function: a test that is renamed or deleted is missed here."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    for file, name in set(named):
        tree = ast.parse((REPOSITORY / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{file} has no {name}"


def test_forty_rows_each_with_a_test_or_a_word_why_not() -> None:
    """What is open says so."""
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 41))
    assert [number for number, _, shown in ROWS if "::" not in shown and not shown.startswith("open: ")] == []
