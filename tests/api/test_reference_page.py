"""The reference page says every field, its limits, and every rule that the models hold."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api import crd
from finetune_api.base import Object
from finetune_api.status import Status
from finetune_api.v1alpha1 import TRANSITIONS, Spec

PAGE = crd.reference_page()
SECTIONS = dict(re.findall(r"^## ([\w.\[\]]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def models(path: str, model: type[Object]) -> Iterator[tuple[str, type[Object]]]:
    """The model and all below it, by the path of the section that must tell of it."""
    yield path, model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Object):
                several = "list" in str(field.annotation)
                yield from models(f"{path}.{field.alias}{'[]' if several else ''}", part)


ALL = [*models("spec", Spec), *models("status", Status)]


@pytest.mark.parametrize(("path", "model"), ALL, ids=[path for path, _ in ALL])
def test_every_field_stands_in_the_section_of_its_object(path: str, model: type[Object]) -> None:
    """One row each with the words of its docstring, and each rule's message below."""
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", SECTIONS[path], re.MULTILINE))
    assert list(rows) == [field.alias for field in model.model_fields.values()]
    for field in model.model_fields.values():
        words = " ".join((field.description or "").split()).replace("|", "\\|")
        assert words, field.alias
        assert rows[field.alias or ""].strip().endswith(words)
        assert ("**required**" in rows[field.alias or ""]) == field.is_required()
    for rule in model.rules:
        assert f"- {rule.message}\n" in SECTIONS[path]


def test_no_section_is_of_nothing() -> None:
    """Objects, and what the names of Jobs leave to choose."""
    assert sorted(SECTIONS) == sorted([path for path, _ in ALL] + ["metadata"])


def test_what_may_not_change_is_told() -> None:
    """Beside the field."""
    assert [change.field for change in TRANSITIONS if f"- {change.message}\n" not in PAGE] == []


@pytest.mark.parametrize(
    ("path", "field", "kind"),
    [
        ("spec", "retries", "integer, 0 to 100 | `3`"),
        ("spec.resources", "memory", "quantity | `8Gi`"),
        ("spec.resources", "nodeSelector", "map to string, at most 63 characters, at most 32"),
        ("spec.resources.tolerations[]", "operator", "`Exists`, `Equal` | `Equal`"),
        ("status", "preemptions", "integer, at least 0 | "),
    ],
)
def test_type_and_default_as_a_user_reads_them(path: str, field: str, kind: str) -> None:
    """Bounds, choices and defaults in words."""
    assert f"| `{field}` | {kind} |" in SECTIONS[path]


def test_a_stale_page_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` names it and writes nothing; without it the page is written."""
    file = tmp_path / "page.md"
    file.write_text("old")
    assert crd.main(["--check", str(file)]) == 1
    assert (file.read_text(), str(file) in capsys.readouterr().err) == ("old", True)
    assert crd.main([str(file)]) == 0
    assert file.read_text() == PAGE
    assert crd.main(["--check", str(file)]) == 0
