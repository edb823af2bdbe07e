"""One FineTuneJob through a real API server, Job controller, kubelet, QLoRA run and S3 server."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.jobs import NAMESPACE, children, condition, creations, ended, manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def finished(installed: Any) -> Any:
    """A job that has come to its end, and the cluster it ran on."""
    installed.apply(manifest("good", installed.s3.endpoint), namespace=NAMESPACE)
    job = installed.wait_for("the verdict on team/good", ended(installed, "good"), timeout=420)
    return installed, job


@pytest.fixture(scope="module")
def published(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published prefix, downloaded as a user would."""
    import boto3

    cluster, _ = finished
    folder = tmp_path_factory.mktemp("adapter")
    client = boto3.client("s3", **cluster.s3.client_arguments())
    for entry in client.list_objects_v2(Bucket="adapters", Prefix="good/")["Contents"]:
        name = entry["Key"].removeprefix("good/")
        if not name.startswith(".finetune/"):
            (folder / name).write_bytes(client.get_object(Bucket="adapters", Key=entry["Key"])["Body"].read())
    return folder


def test_succeeds_with_a_verified_artifact(finished: Any, published: Path) -> None:
    """The verdict is Succeeded=True/Published, and its digest is the manifest's own."""
    _, job = finished

    assert (condition(job, "Succeeded")["status"], condition(job, "Succeeded")["reason"]) == ("True", "Published"), job
    artifact = job["status"]["artifact"]
    assert artifact["manifestSha256"] == hashlib.sha256((published / "manifest.json").read_bytes()).hexdigest()
    assert artifact["uri"] == "s3://adapters/good"


def test_every_digest_of_the_manifest_matches(published: Path) -> None:
    """Each file that the manifest names is there with its size and sha256, and no other file is."""
    files = json.loads((published / "manifest.json").read_bytes())["files"]

    assert {path.name for path in published.iterdir()} == {*files, "manifest.json"}
    for name, facts in files.items():
        data = (published / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["size"], facts["sha256"]), name


def test_plain_peft_loads_the_prefix(published: Path, tiny_model: Path) -> None:
    """PeftModel.from_pretrained takes the downloaded prefix as it is, and the adapter changes the model's answer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokens = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        before = base(tokens).logits
        after = PeftModel.from_pretrained(base, published)(tokens).logits

    assert torch.isfinite(after).all()
    assert not torch.allclose(before, after)


def test_status_tells_the_numbers(finished: Any) -> None:
    """Progress, dataset, losses and the attempt are in the status; training lowered the held-out loss."""
    _, job = finished
    status = job["status"]

    assert (status["progress"]["percentage"], status["progress"]["step"]) == ("100%", 12)
    assert float(status["progress"]["loss"]) > 0
    assert (status["dataset"]["rows"], status["dataset"]["evaluationRows"]) == (32, 8)
    assert 0 < status["dataset"]["trainedTokens"] < status["dataset"]["tokens"]
    assert float(status["evaluation"]["lossAfter"]) < float(status["evaluation"]["lossBefore"])
    assert [(a["stage"], a["exitCode"]) for a in status["attempts"]] == [("prepare", 0), ("train", 0)]
    assert condition(job, "Prepared")["status"] == "True"
    assert status["observedGeneration"] == job["metadata"]["generation"]
    assert (status["attempt"], status["modelName"]) == (1, "tiny")


def test_kubectl_get_tells_the_story(finished: Any) -> None:
    """The columns are those of the README, in their order."""
    cluster, _ = finished

    header, line = cluster.kubectl("-n", NAMESPACE, "get", "ftj", "good").splitlines()

    assert header.split() == ["NAME", "STATUS", "PROGRESS", "LOSS", "ETA", "MODEL", "ATTEMPT", "AGE"]
    assert line.split()[:3] == ["good", "Published", "100%"]


def test_events_are_in_order(finished: Any) -> None:
    """Events are Normal, and they go from the start of the attempt to the publication."""
    cluster, job = finished
    events = [
        event
        for event in cluster.get("events", namespace=NAMESPACE)["items"]
        if event["involvedObject"].get("uid") == job["metadata"]["uid"]
    ]

    assert {event["type"] for event in events} == {"Normal"}
    ordered = sorted(events, key=lambda event: event.get("eventTime") or event.get("firstTimestamp"))
    assert (ordered[0]["reason"], ordered[-1]["reason"]) == ("PrepareStarted", "Published")


def test_one_job_and_no_write_but_status(finished: Any) -> None:
    """The audit log shows one Job creation a stage, and the operator writes nothing of the CR but its status."""
    cluster, job = finished
    writes = [
        entry
        for entry in cluster.audit()
        if entry.get("objectRef", {}).get("resource") == "finetunejobs"
        and entry.get("objectRef", {}).get("name") == "good"
        and entry["verb"] in ("create", "update", "patch", "delete")
        and "finetune-operator" in entry["user"]["username"]
    ]

    assert creations(cluster, job["metadata"]["uid"]) == ["prepare", "train"]
    assert len(children(cluster, "jobs", job["metadata"]["uid"])) == 2
    assert writes
    assert {entry.get("objectRef", {}).get("subresource") for entry in writes} == {"status"}


def test_no_credential_anywhere(finished: Any) -> None:
    """The secret key is in no log, status, event, annotation or audit entry of the operator."""
    cluster, job = finished
    secret = cluster.s3.client_arguments()["aws_secret_access_key"]
    pods = [pod["metadata"]["name"] for pod in children(cluster, "pods", job["metadata"]["uid"])]

    texts = [
        json.dumps(cluster.get("ftj,jobs,pods,events", namespace=NAMESPACE)),
        *(cluster.kubectl("-n", NAMESPACE, "logs", pod) for pod in pods),
        cluster.kubectl("-n", "finetune-system", "logs", "deployment/finetune-operator", "--tail=-1"),
    ]

    assert not [text for text in texts if secret in text]


def test_the_trainer_has_no_token(finished: Any) -> None:
    """No service-account token is mounted into the pods of the trainer."""
    cluster, job = finished
    pods = children(cluster, "pods", job["metadata"]["uid"])

    mounts = {mount["mountPath"] for pod in pods for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert "/work" in mounts
    assert "/var/run/secrets/kubernetes.io/serviceaccount" not in mounts
