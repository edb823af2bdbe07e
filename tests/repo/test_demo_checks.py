"""What the demo claims about the result, it has looked at: a manifest that lies and a second Job are noticed."""

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of the demo, as demo.py does."""
    monkeypatch.syspath_prepend(DEMO)
    return importlib.import_module


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder that is what its manifest says."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    facts = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"adapter_model.safetensors": facts}}))
    return tmp_path


def test_a_true_manifest_is_counted(script: Callable[[str], ModuleType], published: Path) -> None:
    """Every file but the manifest itself."""
    assert script("bucket").check_manifest(published) == 1


@pytest.mark.parametrize("damage", ["manifest.json", "adapter_model.safetensors", "other bytes", "one more file"])
def test_any_damage_fails_the_demo(script: Callable[[str], ModuleType], published: Path, damage: str) -> None:
    """A missing manifest, a missing file, a changed file, a file that is not named."""
    if damage == "other bytes":
        (published / "adapter_model.safetensors").write_bytes(b"Weights")
    elif damage == "one more file":
        (published / "more").touch()
    else:
        (published / damage).unlink()

    with pytest.raises(script("narrate").Failed):
        script("bucket").check_manifest(published)


def entry(verb: str, resource: str, *, user: str = "", subresource: str = "", namespace: str = "demo") -> str:
    """A line of an audit log."""
    user = user or "system:serviceaccount:finetune-system:finetune-operator"
    target = {"resource": resource, "namespace": namespace, "subresource": subresource}
    facts = {"stage": "ResponseComplete", "verb": verb, "user": {"username": user}, "responseStatus": {"code": 201}}
    return json.dumps({**facts, "objectRef": target}) + "\n"


def test_the_audit_log_is_read_from_the_start_of_this_demo(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """Jobs of our namespace count; of the operator's writes, those that are not to the status; a torn line does not."""
    log = tmp_path / "audit.jsonl"
    before = entry("create", "jobs") + entry("update", "finetunejobs")
    log.write_text(
        before
        + entry("create", "jobs")
        + entry("create", "jobs", namespace="other")
        + entry("patch", "finetunejobs", subresource="status")
        + entry("update", "finetunejobs")
        + entry("create", "finetunejobs", user="admin")
        + entry("get", "finetunejobs")
        + entry("create", "jobs")[:40]
    )

    assert script("kube").audit_facts(log, len(before)) == (1, 1)
    assert script("kube").audit_facts(log, 0) == (2, 2)
