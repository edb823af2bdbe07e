"""Bad input, through the whole system: each its own reason and a message, and nothing published."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.jobs import NAMESPACE, Json, condition, ended, manifest
from tests.tiny import jsonl, rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
GOOD = jsonl(rows(32))
WRONG_ROLE = jsonl([{"messages": [{"role": "bot", "content": "Hello."}]}])


@dataclass(frozen=True)
class Bad:
    """A job that cannot succeed, and what must be said of it."""

    name: str
    code: int
    reason: str
    says: tuple[str, ...]
    spec: Json = field(default_factory=dict)
    data: str | None = None


CASES = [
    Bad("missing-bucket", 73, "BucketNotFound", ("nowhere",), {"output": {"uri": "s3://nowhere/x"}}),
    Bad("no-such-model", 66, "ModelNotFound", ("s3://models/none",), {"model": {"uri": "s3://models/none"}}),
    Bad("no-such-dataset", 66, "DatasetNotFound", ("s3://datasets/none.jsonl",),
        {"dataset": {"train": {"uri": "s3://datasets/none.jsonl"}}}),
    Bad("half-line", 65, "InvalidDataset", ("half-line.jsonl:33",), data=GOOD + '{"messages": [{"role": "us'),
    Bad("wrong-role", 65, "InvalidDataset", ("wrong-role.jsonl:33", "bot"), data=GOOD + WRONG_ROLE),
    Bad("empty-file", 65, "EmptyDataset", ("empty-file.jsonl",), data=""),
    Bad("all-too-long", 65, "EmptyDataset", ("maxLength",), {"training": {"maxLength": 8, "maxSteps": 2}}),
    Bad("unknown-module", 64, "InvalidConfiguration", ("no_such_proj",),
        {"method": {"type": "LoRA", "targetModules": ["no_such_proj"]}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(installed: Any, s3_client: Any) -> dict[str, Json]:
    """All bad jobs, applied at once, and what became of each."""
    secret = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}
    installed.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-key"}, "stringData": secret},
        namespace=NAMESPACE,
    )
    wrong_key = {"storage": {"secretName": "wrong-key", "endpoint": installed.s3.endpoint}}
    for case in [*CASES, Bad("wrong-key", 73, "StorageDenied", (), wrong_key)]:
        for left in s3_client.list_objects_v2(Bucket="adapters", Prefix=f"{case.name}/").get("Contents", []):
            s3_client.delete_object(Bucket="adapters", Key=left["Key"])  # by an earlier run of the tests
        spec = dict(case.spec)
        if case.data is not None:
            s3_client.put_object(Bucket="datasets", Key=f"{case.name}.jsonl", Body=case.data.encode())
            spec["dataset"] = {"train": {"uri": f"s3://datasets/{case.name}.jsonl"}}
        installed.apply(manifest(case.name, installed.s3.endpoint, **spec), namespace=NAMESPACE)
    names = [*(case.name for case in CASES), "wrong-key"]
    return {name: installed.wait_for(f"the verdict on {name}", ended(installed, name), timeout=600) for name in names}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_ends_with_its_reason(verdicts: dict[str, Json], case: Bad) -> None:
    """Reason, exit code and the offending value are in the status, once; no Job was made that would hold a GPU."""
    job = verdicts[case.name]
    succeeded = condition(job, "Succeeded")

    assert (succeeded["status"], succeeded["reason"]) == ("False", case.reason), succeeded
    found = [(attempt["stage"], attempt["exitCode"]) for attempt in job["status"]["attempts"]]
    assert found == [("prepare", case.code)]
    assert condition(job, "Prepared")["status"] == "False"
    for word in case.says:
        assert word in succeeded["message"]
    assert condition(job, "Stalled")["status"] == "True"


def test_wrong_key_is_told_without_the_key(verdicts: dict[str, Json]) -> None:
    """A refused credential names what to check, and shows no secret."""
    succeeded = condition(verdicts["wrong-key"], "Succeeded")

    assert (succeeded["status"], succeeded["reason"]) == ("False", "StorageDenied")
    assert "wrong" not in json.dumps(verdicts["wrong-key"]["status"]).replace("wrong-key", "")


def test_nothing_was_published(verdicts: dict[str, Json], s3_client: Any) -> None:
    """No failed job left an object in the bucket, but for the report on rows that were read and refused."""
    for name, job in verdicts.items():
        listing = s3_client.list_objects_v2(Bucket="adapters", Prefix=f"{name}/")
        report = f"{name}/.finetune/{job['metadata']['uid']}/dataset-report.json"
        assert {found["Key"] for found in listing.get("Contents", [])} <= {report}
        if name in ("half-line", "wrong-role"):
            told = json.loads(s3_client.get_object(Bucket="adapters", Key=report)["Body"].read())["train"]
            assert told["refused"].startswith("InvalidDataset: ")
            assert [(found["count"], found["first"][0]["line"]) for found in told["findings"]] == [(1, 33)]


def test_a_warning_event_tells_it_too(verdicts: dict[str, Json], installed: Any) -> None:
    """Each failure has exactly one Warning event with its reason."""
    events = installed.get("events", namespace=NAMESPACE)["items"]
    for name, job in verdicts.items():
        warnings = [
            e["reason"]
            for e in events
            if e["type"] == "Warning" and e["involvedObject"].get("uid") == job["metadata"]["uid"]
        ]
        assert warnings.count(condition(job, "Succeeded")["reason"]) == 1, name
