"""Two pods train together on the cluster: one Job, one Service, and a gang that begins anew as one."""

import hashlib
import json
from typing import Any

import pytest

from tests.cluster.jobs import NAMESPACE, Json, children, condition, creations, ended, manifest, reached

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
INDEX = "batch.kubernetes.io/job-completion-index"
TWO = {"gpus": 0, "nodes": 2, "cpu": "250m", "memory": "2Gi", "workStorage": "5Gi"}
SHORT = {"maxSteps": 12, "batchSize": 4, "microBatchSize": 2, "learningRate": "5e-3"}
LONG = {**SHORT, "maxSteps": 400, "loggingSteps": 20, "checkpoints": {"everySteps": 50}}


def _apply(cluster: Any, name: str, **spec: Any) -> None:
    cluster.kubectl("-n", NAMESPACE, "delete", "ftj", name, "--ignore-not-found", timeout=120)
    job = manifest(name, cluster.s3.endpoint, method={"type": "LoRA"}, resources=TWO, **spec)
    cluster.apply(job, namespace=NAMESPACE)


def _is_verified(s3_client: Any, job: Json, name: str) -> None:
    """The manifest is the one that the status names, and every file is what the manifest says."""
    text = s3_client.get_object(Bucket="adapters", Key=f"{name}/manifest.json")["Body"].read()
    assert hashlib.sha256(text).hexdigest() == job["status"]["artifact"]["manifestSha256"]
    for path, facts in json.loads(text)["files"].items():
        data = s3_client.get_object(Bucket="adapters", Key=f"{name}/{path}")["Body"].read()
        assert hashlib.sha256(data).hexdigest() == facts["sha256"], path


def test_two_pods_make_one_verified_adapter(installed: Any, s3_client: Any) -> None:
    """From apply to Succeeded: one Job and one Service of two pods; deletion leaves neither."""
    _apply(installed, "pair", training=SHORT)
    job = installed.wait_for("the verdict on pair", ended(installed, "pair"), timeout=600)
    uid = job["metadata"]["uid"]

    assert (condition(job, "Succeeded")["status"], condition(job, "Succeeded")["reason"]) == ("True", "Published"), job
    _is_verified(s3_client, job, "pair")
    assert creations(installed, uid) == ["prepare", "train"]
    (made,) = children(installed, "jobs", uid, "train")
    (service,) = children(installed, "services", uid)
    assert made["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    pods = children(installed, "pods", uid, "train")
    assert {pod["metadata"]["labels"][INDEX] for pod in pods} >= {"0"}
    assert (job["status"]["progress"]["percentage"], job["status"]["attempt"]) == ("100%", 1)

    installed.kubectl("-n", NAMESPACE, "delete", "ftj", "pair", "--wait=false")
    for kind in ("pods", "jobs", "services"):
        installed.wait_for(f"the end of its {kind}", lambda kind=kind: not children(installed, kind, uid), timeout=90)


def test_a_deleted_pod_takes_the_gang_along(installed: Any, s3_client: Any) -> None:
    """The second pod is deleted in training: both save and end, both come again in the same Job, and it ends well."""
    _apply(installed, "tandem", training=LONG)
    job = installed.wait_for("training of tandem", reached(installed, "tandem", "Training"), timeout=300)
    uid = job["metadata"]["uid"]
    before = {pod["metadata"]["name"]: pod for pod in children(installed, "pods", uid, "train")}
    (second,) = [name for name, pod in before.items() if pod["metadata"]["labels"][INDEX] == "1"]

    installed.kubectl("-n", NAMESPACE, "delete", "pod", second, "--wait=false")
    job = installed.wait_for("the verdict on tandem", ended(installed, "tandem"), timeout=600)

    assert condition(job, "Succeeded")["reason"] == "Published", job["status"]
    _is_verified(s3_client, job, "tandem")
    assert creations(installed, uid) == ["prepare", "train"]
    assert len(children(installed, "services", uid)) == 1
    assert (job["status"]["failures"], job["status"]["attempt"]) == (0, 1)
    assert job["status"]["preemptions"] >= 1
    after = children(installed, "pods", uid, "train")
    firsts = [pod for pod in after if pod["metadata"]["labels"][INDEX] == "0"]
    (first,) = [pod for pod in firsts if pod["status"]["phase"] == "Succeeded"]
    assert first["metadata"]["name"] not in before
    logs = installed.kubectl("-n", NAMESPACE, "logs", first["metadata"]["name"], "--tail=-1")
    assert "training from step 0 " not in logs, logs
    assert "training from step " in logs, logs
