"""Laws of the Job's manifest: it is safe, it is ours alone, and it carries everything but a credential."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.load import parse_job
from finetune_api.names import ANNOTATION_RUN_FILE, RUN_FILE_PATH, Stage
from finetune_api.run import RunFile
from finetune_operator.desired import job_manifest, job_name
from tests.controller.world import KEY, SETTINGS, SPEC, UID

FULL: dict[str, Any] = {
    "model": {"uri": "pvc://weights/smol", "secretName": "hub-token", "adapter": {"uri": "pvc://first/bot"}},
    "dataset": {"train": {"uri": "pvc://data/train.jsonl"}, "evaluation": {"uri": "pvc://data/eval.jsonl"}},
    "resources": {
        "gpus": 2,
        "gpuResource": "amd.com/gpu",
        "cpu": "500m",
        "memory": "3Gi",
        "sharedMemory": "64Mi",
        "workStorage": "1Gi",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "runtimeClassName": "nvidia",
        "priorityClassName": "low",
    },
    "training": {"batchSize": 4},
    "storage": {"secretName": "s3-credentials", "endpoint": "http://s3.test:9000"},
    "output": {"uri": "pvc://out/bot"},
    "deadlines": {"activeSeconds": 3600},
}


def manifest(
    spec: dict[str, Any], attempt: int = 1, name: str = KEY[1], stage: Stage = Stage.TRAIN, **more: Any
) -> dict[str, Any]:
    """The Job of that attempt, as the API server would get it."""
    labels = {"argocd.argoproj.io/instance": "prod", "app.kubernetes.io/managed-by": "Helm"}
    resource = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": KEY[0], "uid": UID, "labels": labels, "annotations": {"a": "b"}},
        "spec": spec,
    }
    made = job_manifest(
        parse_job(resource), namespace=KEY[0], uid=UID, stage=stage, attempt=attempt, settings=SETTINGS, **more
    )
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """Its pod's spec."""
    return job["spec"]["template"]["spec"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", [SPEC, FULL])
def test_restricted_pod_security(spec: dict[str, Any]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/ restricted, and a read-only root."""
    pod = pod_of(manifest(spec))
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        assert forbidden not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all("hostPort" not in port for port in container["ports"])
    kinds = {next(key for key in volume if key != "name") for volume in pod["volumes"]}
    assert kinds <= {"downwardAPI", "emptyDir", "persistentVolumeClaim"}


def test_labels_and_annotations_are_ours_alone() -> None:
    """What GitOps tools put on the FineTuneJob stays there: on a child it would make them prune it."""
    job = manifest(SPEC)
    expected = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "app.kubernetes.io/name": "finetune-trainer",
        "finetune.dev/job": "bot",
        "finetune.dev/uid": UID,
        "finetune.dev/stage": "train",
        "finetune.dev/attempt": "1",
    }
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"] == expected
    assert "annotations" not in job["metadata"]
    assert set(job["spec"]["template"]["metadata"]["annotations"]) == {ANNOTATION_RUN_FILE}


def test_owner_collects_it() -> None:
    """One owner, the FineTuneJob, as its controller: deleting it collects the Job with the operator up or down."""
    assert manifest(SPEC)["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "name": "bot",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert "ttlSecondsAfterFinished" not in manifest(SPEC)["spec"]


@pytest.mark.parametrize("spec", [SPEC, FULL])
def test_run_file_round_trips(spec: dict[str, Any]) -> None:
    """The annotation is the run file, mounted where the trainer looks, and says what the spec says."""
    job = manifest(spec, attempt=3)
    text = job["spec"]["template"]["metadata"]["annotations"][ANNOTATION_RUN_FILE]
    run = RunFile.from_json(text)
    assert (run.name, run.namespace, run.uid, run.attempt) == ("bot", KEY[0], UID, 3)
    assert (run.model.uri, run.output.uri) == (spec["model"]["uri"], spec["output"]["uri"])
    assert run.processes == max(1, spec["resources"]["gpus"])
    volume = next(v for v in pod_of(job)["volumes"] if "downwardAPI" in v)
    (item,) = volume["downwardAPI"]["items"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod_of(job)["containers"][0]["volumeMounts"]}
    assert f"{mounts[volume['name']]}/{item['path']}" == RUN_FILE_PATH
    assert item["fieldRef"]["fieldPath"] == f"metadata.annotations['{ANNOTATION_RUN_FILE}']"


def test_credentials_go_by_reference_only() -> None:
    """Every credential variable names a Secret's key and holds no value."""
    environment = {entry["name"]: entry for entry in pod_of(manifest(FULL))["containers"][0]["env"]}
    for name, secret, optional in [
        ("AWS_ACCESS_KEY_ID", "s3-credentials", False),
        ("AWS_SECRET_ACCESS_KEY", "s3-credentials", False),
        ("AWS_SESSION_TOKEN", "s3-credentials", True),
        ("HF_TOKEN", "hub-token", False),
    ]:
        assert "value" not in environment[name]
        reference = environment[name]["valueFrom"]["secretKeyRef"]
        assert (reference["name"], reference["key"]) == (secret, name)
        assert reference.get("optional", False) is optional
    plain = {"HOME", "AWS_EC2_METADATA_DISABLED", "FINETUNE_IMAGE"}
    assert {name for name, entry in environment.items() if "value" in entry} == plain


def test_the_container_is_told_its_image() -> None:
    """For the manifest of what it publishes: the job's own image, or the operator's default."""
    for spec, image in ((SPEC, SETTINGS.trainer_image), ({**SPEC, "image": "mine:2"}, "mine:2")):
        (container,) = pod_of(manifest(spec))["containers"]
        assert container["image"] == image
        assert {"name": "FINETUNE_IMAGE", "value": image} in container["env"]


def test_a_trackers_secret_becomes_the_environment() -> None:
    """Each once and by name only, in both stages: that it is missing must not be found while a GPU is held."""
    trackers = [
        {"type": "MLflow", "uri": "https://mlflow.test", "secretName": "tracking"},
        {"type": "WandB", "secretName": "wandb"},
        {"type": "Trackio", "secretName": "tracking"},
    ]
    for stage in Stage:
        (container,) = pod_of(manifest({**SPEC, "training": {"trackers": trackers}}, stage=stage))["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "tracking"}}, {"secretRef": {"name": "wandb"}}]
        (plain,) = pod_of(manifest(SPEC, stage=stage))["containers"]
        assert "envFrom" not in plain


def test_no_token_without_a_named_account() -> None:
    """The trainer has no business with the API server."""
    assert pod_of(manifest(SPEC))["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod_of(manifest(SPEC))
    named = pod_of(manifest({**SPEC, "serviceAccountName": "s3-reader"}))
    assert (named["serviceAccountName"], named["automountServiceAccountToken"]) == ("s3-reader", True)
    assert named["enableServiceLinks"] is False


def test_interruptions_are_the_jobs_business_and_failures_ours() -> None:
    """In this order: disruption and code 75 are ignored, every other code fails the Job; and it is never retried."""
    spec = manifest(SPEC)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    first, second, third = spec["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (second["action"], second["onExitCodes"]["operator"], second["onExitCodes"]["values"]) == (
        "Ignore",
        "In",
        [75],
    )
    assert (third["action"], third["onExitCodes"]["operator"], third["onExitCodes"]["values"]) == (
        "FailJob",
        "NotIn",
        [75],
    )
    assert {second["onExitCodes"]["containerName"], third["onExitCodes"]["containerName"]} == {"trainer"}


def test_resources_and_placement() -> None:
    """GPUs are a limit of the named resource; memory is request and limit; placement is passed on."""
    pod = pod_of(manifest(FULL))
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "3Gi"},
        "limits": {"memory": "3Gi", "amd.com/gpu": "2"},
    }
    assert "nvidia.com/gpu" not in json.dumps(pod_of(manifest(SPEC)))
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "low")
    assert "activeDeadlineSeconds" not in manifest(FULL)["spec"], "it would count waiting, and could not change"
    assert "activeDeadlineSeconds" not in manifest(SPEC)["spec"]


def test_preparing_asks_for_no_gpu() -> None:
    """It runs anywhere, with what resources.prepare says, one process, and is a Job of its own."""
    spec = {**FULL, "resources": {**FULL["resources"], "prepare": {"cpu": "2", "memory": "1Gi"}}}
    job = manifest(spec, stage=Stage.PREPARE)
    pod = pod_of(job)
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }
    assert not {"nodeSelector", "runtimeClassName"} & pod.keys()
    assert pod["tolerations"] == pod_of(manifest(spec))["tolerations"]
    run = RunFile.from_json(job["spec"]["template"]["metadata"]["annotations"][ANNOTATION_RUN_FILE])
    assert (run.stage, run.processes) == (Stage.PREPARE, 1)
    assert job["metadata"]["labels"]["finetune.dev/stage"] == "prepare"
    assert job["metadata"]["name"] != manifest(spec)["metadata"]["name"]
    chosen = {**spec, "resources": {**spec["resources"], "prepare": {"nodeSelector": {"pool": "cpu"}}}}
    assert pod_of(manifest(chosen, stage=Stage.PREPARE))["nodeSelector"] == {"pool": "cpu"}


def test_a_smaller_micro_batch_is_all_that_changes() -> None:
    """After a GPU ran out of memory the run file says half the micro-batch, and the batch stays."""
    spec = {**SPEC, "training": {"batchSize": 16, "microBatchSize": 4}}
    plain, small = (manifest(spec, **more) for more in ({}, {"micro_batch_size": 2}))
    runs = [
        RunFile.from_json(m["spec"]["template"]["metadata"]["annotations"].pop(ANNOTATION_RUN_FILE))
        for m in (plain, small)
    ]
    assert plain == small
    assert [run.training.micro_batch_size for run in runs] == [4, 2]
    assert runs[0].training.batch_size == runs[1].training.batch_size == 16


@pytest.mark.parametrize(("grace", "worker"), [(60, "50"), (600, "590"), (12, "6"), (1, "1")])
def test_the_worker_stops_before_its_pod_is_killed(grace: int, worker: str) -> None:
    """The trainer is told to end its worker before the kubelet ends them both, however short the grace period is."""
    settings = SETTINGS.model_copy(update={"termination_grace_seconds": grace})
    resource = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "bot", "namespace": KEY[0], "uid": UID},
        "spec": SPEC,
    }
    made = job_manifest(parse_job(resource), namespace=KEY[0], uid=UID, stage=Stage.TRAIN, attempt=1, settings=settings)
    pod = pod_of(made)
    assert pod["terminationGracePeriodSeconds"] == grace
    assert pod["containers"][0]["args"] == ["--stop-grace-seconds", worker]


def test_as_many_threads_as_cpus_were_asked_for() -> None:
    """The kubelet fills in the container's own request; on a large node torch would start a thread for every core."""
    (entry,) = [e for e in pod_of(manifest(SPEC))["containers"][0]["env"] if e["name"] == "OMP_NUM_THREADS"]
    assert entry["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}


def test_writable_places_are_bounded_volumes() -> None:
    """With a read-only root the trainer writes to /work, /tmp and /dev/shm, and to an output claim."""
    pod = pod_of(manifest(FULL))
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert volumes[mounts["/work"]["name"]]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}  # noqa: S108
    claims = {path: mounts[path]["readOnly"] for path in mounts if path.startswith("/pvc/")}
    assert claims == {"/pvc/weights": True, "/pvc/first": True, "/pvc/data": True, "/pvc/out": False}
    for path in claims:
        name = volumes[mounts[path]["name"]]["persistentVolumeClaim"]["claimName"]
        assert path == f"/pvc/{name}"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?\Z"), st.uuids(), st.uuids(), st.integers(1, 50))
def test_names(name: str, uid: Any, other: Any, attempt: int) -> None:
    """Same purpose, same name; another uid, stage or attempt, another name; and it fits a label."""
    made = job_name(name, str(uid), Stage.TRAIN, attempt)
    assert made == job_name(name, str(uid), Stage.TRAIN, attempt)
    assert made != job_name(name, str(uid), Stage.TRAIN, attempt + 1)
    assert made != job_name(name, str(uid), Stage.PREPARE, attempt)
    assert uid == other or made != job_name(name, str(other), Stage.TRAIN, attempt)
    assert made.startswith(f"{name}-")
    assert len(made) <= 63
