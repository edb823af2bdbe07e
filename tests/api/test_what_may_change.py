"""After creation only the named fields change; the CRD's CEL rules and the Python predicates name the same ones."""

import copy
from typing import Any

import pytest

from finetune_api import crd
from finetune_api.v1alpha1 import Spec, refused_changes

FULL: dict[str, Any] = {
    "model": {"uri": "s3://models/x"},
    "dataset": {"train": {"uri": "s3://data/x"}},
    "output": {"uri": "s3://out/x"},
    "image": "trainer:1",
    "serviceAccountName": "trainer",
    "queueName": "team-a",
    "workloadPriorityClassName": "high",
    "ttlSecondsAfterFinished": 60,
}
CHANGES: dict[str, Any] = {
    "model": {"uri": "s3://models/y"},
    "dataset": {"train": {"uri": "s3://data/y"}},
    "task": {"type": "SequenceClassification"},
    "method": {"rank": 8},
    "training": {"epochs": 9},
    "evaluation": {"batchSize": 1},
    "extensions": {"callbacks": ["a:b"]},
    "debug": {"debugpy": {}},
    "resources": {"gpus": 2},
    "storage": {"region": "eu-1"},
    "output": {"uri": "s3://out/y"},
    "rerun": True,
    "image": "trainer:2",
    "serviceAccountName": "other",
    "queueName": "team-b",
    "workloadPriorityClassName": "low",
    "suspend": True,
    "retries": 1,
    "deadlines": {"activeSeconds": 60},
    "ttlSecondsAfterFinished": 0,
}
ANY_TIME = {"suspend", "retries", "deadlines", "ttlSecondsAfterFinished"}
AT_REST = {"queueName", "workloadPriorityClassName"}


def refused(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields that the Python side names."""
    before, after = Spec.model_construct(), Spec.model_construct()
    for made, given in ((before, old), (after, new)):
        for name, info in Spec.model_fields.items():
            setattr(made, name, given.get(info.alias or "", info.default))
    return [field for field, _ in refused_changes(before, after)]


def test_every_field_of_the_spec_is_in_this_table() -> None:
    """A new field must say when it may change."""
    assert CHANGES.keys() == {info.alias for info in Spec.model_fields.values()}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("at_rest", [False, True])
def test_change(field: str, at_rest: bool) -> None:
    """A new value, and for what may be missing also taking it away and setting it at first."""
    old = {**copy.deepcopy(FULL), "suspend": at_rest}
    allowed = field in ANY_TIME or (at_rest and field in AT_REST)
    absent = {name: value for name, value in old.items() if name != field}
    pairs = [(old, {**old, field: CHANGES[field]})]
    pairs += [(old, absent), (absent, old)] if field in FULL and field not in ("model", "dataset", "output") else []
    for before, after in pairs:
        assert refused(before, after) == ([] if allowed else [f"spec.{field}"])
        assert refused(before, copy.deepcopy(before)) == []


@pytest.mark.parametrize("field", CHANGES)
def test_the_crd_says_the_same(field: str) -> None:
    """Each field that is not always free has one transition rule whose message names it and what to do instead."""
    spec = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    own = spec["properties"][field].get("x-kubernetes-validations", [])
    rules = [rule for rule in own if rule["rule"] == "self == oldSelf"]
    rules += [r for r in spec["x-kubernetes-validations"] if f"oldSelf.{field})" in r["rule"]]
    assert len(rules) == (0 if field in ANY_TIME else 1)
    for rule in rules:
        assert rule["message"].startswith(f"{field} ")
        assert ("suspend is true" if field in AT_REST else "create a new FineTuneJob") in rule["message"]
        assert rule["rule"].startswith("oldSelf.suspend || ") == (field in AT_REST)
