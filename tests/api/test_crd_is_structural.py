"""The CRD obeys Kubernetes' rules for structural schemas and the house's rules for bounded, described fields."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from finetune_api import crd
from finetune_api.status import Status
from finetune_api.v1alpha1 import Spec


def _schema() -> dict[str, Any]:
    root: dict[str, Any] = yaml.safe_load(crd.render())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


def _walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _walk(node[key], f"{path}[]")


def test_nothing_that_a_structural_schema_forbids() -> None:
    """No reference, alternative, title, null or float anywhere."""
    text = json.dumps(_schema())

    for word in (
        '"$ref"',
        '"$defs"',
        '"anyOf"',
        '"oneOf"',
        '"allOf"',
        '"title"',
        '"const"',
        '"type": "number"',
        "null",
    ):
        assert word not in text


def test_every_field_is_described_typed_and_bounded() -> None:
    """Strings, lists and maps have a maximum, integers both ends, every field a sentence."""
    for path, node in _walk(_schema()):
        if path in ("", ".metadata", ".apiVersion", ".kind") or (path.endswith("[]") and node["type"] == "object"):
            continue
        if not path.endswith("[]"):
            assert node["description"].endswith("."), path
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node, path
            continue
        match node["type"]:
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "integer":
                assert "minimum" in node, path
                assert "maximum" in node or path.startswith(".status"), path
                assert node["format"] in ("int32", "int64"), path
            case "array":
                assert "maxItems" in node, path
                assert "x-kubernetes-list-type" in node, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path


def test_rules_of_an_item_stand_with_the_item() -> None:
    """On the list itself `self` would be the list, and the API server would refuse the whole CRD."""
    nodes = dict(_walk(_schema()))
    lists = {path for path, node in nodes.items() if node.get("type") == "array"}
    assert [path for path in lists if "x-kubernetes-validations" in nodes[path]] == []
    assert [path for path in lists if "x-kubernetes-validations" in nodes[f"{path}[]"]] != []


def test_unseen_objects_are_not_done() -> None:
    """The API server fills in an observedGeneration that no real generation equals."""
    assert _schema()["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_defaults_are_the_same_on_both_sides() -> None:
    """What the API server would fill in is what the Python models fill in."""
    minimal = {
        "model": {"uri": "s3://models/x"},
        "dataset": {"train": {"uri": "s3://data/x"}},
        "output": {"uri": "s3://out/x"},
    }

    filled = _with_defaults(_schema()["properties"]["spec"], minimal)

    assert Spec.model_validate(minimal).model_dump(by_alias=True, exclude_none=True, mode="json") == filled


def test_small_enough_for_client_side_apply() -> None:
    """Under 100 kB as compact JSON, far below the limit of the last-applied annotation."""
    assert len(json.dumps(crd.crd(), separators=(",", ":"))) < 100_000


def test_status_renders_without_nulls() -> None:
    """An empty status is what the API server would store for one."""
    assert Status().to_dict() == {
        "observedGeneration": -1,
        "conditions": [],
        "attempts": [],
        "failures": 0,
        "preemptions": 0,
        "queuedSeconds": 0,
        "preparingSeconds": 0,
        "trainingSeconds": 0,
        "gpuSeconds": 0,
        "stepsLost": 0,
    }


def _with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """The API server's defaulting algorithm: fill in absent members, then go down into those that are there."""
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in filled and "default" in child:
            filled[name] = child["default"]
        if name in filled:
            filled[name] = _with_defaults(child, filled[name])
    return filled
