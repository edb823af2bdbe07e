"""What Argo CD shows of a FineTuneJob in every state, and offers to do: its Lua, run without libraries as Argo CD does.

The objects come from the real reconcile (tests/controller/test_kstatus.py).
"""

from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from localcluster.state import REPOSITORY
from tests.controller.test_kstatus import STATES, Resource, ended, invalid, runs, suspended

SETTINGS: dict[str, str] = yaml.safe_load((REPOSITORY / "examples" / "argocd" / "argocd-cm.yaml").read_text())["data"]
HEALTH = SETTINGS["resource.customizations.health.finetune.dev_FineTuneJob"]
ACTIONS = yaml.safe_load(SETTINGS["resource.customizations.actions.finetune.dev_FineTuneJob"])
OTHERS = {"Published": "Healthy", "Suspended": "Suspended"}
FAILED = ("InvalidDataset", "StorageUnavailable, no retries left", "InvalidSpec", "deleted after its end")


def lua(script: str, resource: Resource) -> Any:
    """What the script returns for that object."""
    runtime = LuaRuntime(unpack_returned_tuples=True)
    for library in ("os", "io", "debug", "package", "string", "math"):
        runtime.globals()[library] = None
    runtime.globals().obj = runtime.table_from(resource, recursive=True)
    return plain(runtime.execute(script))


def plain(value: Any) -> Any:
    """A table as a dictionary, all the way down."""
    return {key: plain(inner) for key, inner in value.items()} if hasattr(value, "items") else value


@pytest.mark.parametrize("state", STATES)
def test_health(state: str) -> None:
    """Progressing until the verdict, or until nothing more happens without a person."""
    make, _ = STATES[state]
    resource = make()
    found = lua(HEALTH, resource)
    expected = "Degraded" if state in FAILED else OTHERS.get(state, "Progressing")
    assert (found["status"], found.keys()) == (expected, {"status", "message"})
    said = {c["type"]: c for c in resource["status"].get("conditions", [])}.get("Succeeded", {})
    if resource["metadata"]["generation"] == resource["status"]["observedGeneration"]:
        assert found["message"] == f"{said['reason']}: {said['message']}"


@pytest.mark.parametrize(
    ("make", "offered"),
    [
        (lambda: runs("Training"), {"suspend"}),
        (suspended, {"resume"}),
        (lambda: ended("Published"), set()),
        (lambda: ended("InvalidDataset"), set()),
        (invalid, {"suspend"}),
    ],
    ids=["trains", "suspended", "succeeded", "failed", "invalid"],
)
def test_actions(make: Any, offered: set[str]) -> None:
    """What changes something is offered; it changes spec.suspend, and nothing else."""
    resource = make()
    found = lua(ACTIONS["discovery.lua"], resource)
    assert {name for name, how in found.items() if not how["disabled"]} == offered
    scripts = {definition["name"]: definition["action.lua"] for definition in ACTIONS["definitions"]}
    assert set(scripts) == set(found)
    for name in offered:
        changed = lua(scripts[name], resource)
        assert changed["spec"].pop("suspend") is (name == "suspend")
        assert {"suspend", *changed["spec"]} == {"suspend", *resource["spec"]}
