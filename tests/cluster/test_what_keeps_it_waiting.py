"""A job that cannot start, on a real API server and kubelet: what is in its way, and that it goes on without it."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcluster.errors import CommandFailedError
from tests.cluster.jobs import Json, condition, manifest
from tests.tiny import jsonl, rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
CORE = "v1"
PODS, JOBS, OTHERS = "waits-pods", "waits-jobs", "waits"
"""Namespaces: no pods are allowed, no Jobs are allowed, everything is."""
LATER = {"storage": {"secretName": "later"}}
WAITING = [
    (PODS, "no-pod", {}, "QuotaExceeded", "exceeded quota: none"),
    (JOBS, "no-job", {}, "QuotaExceeded", "exceeded quota: none"),
    (OTHERS, "no-secret", LATER, "MissingSecret", 'secret "later" not found'),
    (
        OTHERS,
        "no-account",
        {"serviceAccountName": "later"},
        "MissingServiceAccount",
        'serviceaccount "later" not found',
    ),
    (OTHERS, "no-image", {"image": "localhost:1/none:1"}, "ImagePullFailed", "image localhost:1/none:1"),
    (OTHERS, "no-volume", {"dataset": {"train": {"uri": "pvc://data/train.jsonl"}}}, "VolumeMountFailed", "not exist"),
    (OTHERS, "no-policy", {}, "InvalidSpec", "no such Jobs here"),
    (OTHERS, "no-node", {"resources": {"nodeSelector": {"is": "nowhere"}}}, "Unschedulable", "0/1 nodes"),
    (OTHERS, "no-class", {"resources": {"priorityClassName": "none"}}, "Unknown", "PriorityClass with name"),
]
HEALS = {"no-pod", "no-job", "no-secret", "no-account", "no-volume", "no-policy"}
"""Whose cause a person can take away; the others want another spec."""
SMALL = {"gpus": 0, "cpu": "50m", "memory": "2Gi", "workStorage": "1Gi", "prepare": {"cpu": "50m", "memory": "1Gi"}}
"""All of them at once, on a node with two cores."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local volume's folder, which is not there yet."""
    return tmp_path_factory.mktemp("volume") / "data"


@pytest.fixture(scope="module")
def waiting(installed: Any, disk: Path) -> Iterator[Any]:
    """All of them, applied at once."""
    try:
        _apply_all(installed, disk)
        yield installed
    finally:
        kinds = "persistentvolume,validatingadmissionpolicy,validatingadmissionpolicybinding"
        installed.kubectl("delete", kinds, "waits", "--ignore-not-found", "--wait=false")
        installed.kubectl("delete", "namespace", PODS, JOBS, OTHERS, "--ignore-not-found", timeout=240)


def _apply_all(installed: Any, disk: Path) -> None:
    secret = installed.get("secret", "s3-credentials", namespace="team")["data"]
    for where in (PODS, JOBS, OTHERS):
        installed.apply({"apiVersion": CORE, "kind": "Namespace", "metadata": {"name": where}})
        installed.apply(_object("Secret", "s3-credentials", data=secret), namespace=where)
    installed.apply(_object("ResourceQuota", "none", spec={"hard": {"pods": "0"}}), namespace=PODS)
    installed.apply(_object("ResourceQuota", "none", spec={"hard": {"count/jobs.batch": "0"}}), namespace=JOBS)
    (node,) = installed.get("nodes")["items"]
    installed.apply(*_volume(node["metadata"]["name"], disk), namespace=OTHERS)
    installed.apply(*_policy())
    for where in (PODS, JOBS):  # a quota counts once its controller has seen it
        installed.wait_for(
            "the quota", lambda where=where: "hard" in _get(installed, "quota", "none", where).get("status", {})
        )
    installed.wait_for("the policy", lambda: "no such Jobs" in _refusal(installed))
    for where, name, spec, _, _ in WAITING:
        installed.apply(_job(installed, name, **spec), namespace=where)


def test_what_is_in_the_way_is_the_reason(waiting: Any) -> None:
    """Each has its own, with the cluster's words; none is final, and nothing is held meanwhile."""
    for where, name, _, reason, words in WAITING:

        def told(where: str = where, name: str = name, reason: str = reason, words: str = words) -> Json | None:
            succeeded = condition(_get(waiting, "ftj", name, where), "Succeeded")
            return succeeded if succeeded.get("reason") == reason and words in succeeded["message"] else None

        succeeded = waiting.wait_for(f"{reason} of {name}", told, timeout=180)  # kubelets have several words for one
        assert succeeded["status"] == "Unknown", succeeded


def test_it_goes_on_when_the_cause_is_gone(waiting: Any, disk: Path) -> None:
    """A person does what the message names, and nothing else: a container runs."""
    disk.mkdir()
    (disk / "train.jsonl").write_text(jsonl(rows(32)))
    disk.chmod(disk.stat().st_mode | stat.S_IROTH | stat.S_IXOTH)
    keys = waiting.get("secret", "s3-credentials", namespace="team")["data"]
    waiting.apply(_object("Secret", "later", data=keys), _object("ServiceAccount", "later"), namespace=OTHERS)
    for where in (PODS, JOBS):
        waiting.kubectl("-n", where, "delete", "quota", "none")
    waiting.kubectl("delete", "validatingadmissionpolicybinding", "waits")

    for where, name, *_ in WAITING:
        if name in HEALS:

            def ran(where: str = where, name: str = name) -> bool:
                attempts = _get(waiting, "ftj", name, where)["status"]["attempts"]
                return any(attempt.get("nodeName") for attempt in attempts)

            waiting.wait_for(f"a container of {name}", ran, timeout=240)


def _job(cluster: Any, name: str, *, resources: Json | None = None, storage: Json | None = None, **spec: Any) -> Json:
    endpoint = cluster.s3.endpoint
    stored = {"secretName": "s3-credentials", "endpoint": endpoint, **(storage or {})}
    return manifest(name, endpoint, resources={**SMALL, **(resources or {})}, storage=stored, **spec)


def _get(cluster: Any, kind: str, name: str, namespace: str) -> Json:
    found: Json = cluster.get(kind, name, namespace=namespace)
    return found


def _object(kind: str, name: str, **parts: Any) -> Json:
    return {"apiVersion": CORE, "kind": kind, "metadata": {"name": name}, **parts}


def _refusal(cluster: Any) -> str:
    """What the API server says to such a Job."""
    command = ("create", "job", "no-policy", "--image=x", "--dry-run=server")
    try:
        cluster.kubectl("-n", OTHERS, *command)
    except CommandFailedError as error:
        return str(error)
    return ""


def _policy() -> tuple[Json, Json]:
    """An administrator's, that refuses Jobs with 422."""
    jobs = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    rule = {"expression": "!object.metadata.name.startsWith('no-policy')", "message": "no such Jobs here"}
    spec = {"matchConstraints": {"resourceRules": [jobs]}, "validations": [rule]}
    binding = {"policyName": "waits", "validationActions": ["Deny"]}
    version = {"apiVersion": "admissionregistration.k8s.io/v1"}
    return (
        {**_object("ValidatingAdmissionPolicy", "waits", spec=spec), **version},
        {**_object("ValidatingAdmissionPolicyBinding", "waits", spec=binding), **version},
    )


def _volume(node: str, path: Path) -> tuple[Json, Json]:
    """A claim that is bound to a folder of the node."""
    both = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none"}
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    affinity = {"required": {"nodeSelectorTerms": [here]}}
    local = {"local": {"path": str(path)}, "nodeAffinity": affinity, "capacity": {"storage": "1Gi"}}
    claim = {**both, "volumeName": "waits", "resources": {"requests": {"storage": "1Gi"}}}
    return _object("PersistentVolume", "waits", spec={**both, **local}), _object(
        "PersistentVolumeClaim", "data", spec=claim
    )
