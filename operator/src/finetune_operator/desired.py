"""Pure: from a FineTuneJob to the manifests of one attempt: a Job, and a Service where several pods train together."""

import hashlib
from typing import Any

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.outcome import ExitCode
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import FineTuneJob, Resources, Spec, source_uris
from finetune_operator.settings import Settings

Manifest = dict[str, Any]
USER_ID = 65532
CLAIM = "pvc://"
_RUN_FILE_FOLDER, _RUN_FILE_NAME = names.RUN_FILE_PATH.rsplit("/", 1)


def job_name(name: str, uid: str, stage: Stage, attempt: int) -> str:
    """The Job's name follows from what it is for: two operators, or one that died half-way, mean the same object."""
    digest = hashlib.sha256(f"{uid}/{stage.value}/{attempt}".encode()).hexdigest()
    return f"{name}-{digest[:7]}"


def service_name(job_name: str, uid: str) -> str:
    """Of the Service of that Job. It begins with a letter, as it must; the Job's name may begin with a digit."""
    return f"gang-{hashlib.sha256(f'{uid}/{job_name}'.encode()).hexdigest()[:16]}"


def labels(name: str, uid: str, stage: Stage, attempt: int) -> dict[str, str]:
    """A fixed set. The FineTuneJob's own labels stay off: a GitOps tool would take the Job for its own and prune it."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        "app.kubernetes.io/name": "finetune-trainer",
        names.LABEL_JOB_NAME: name,
        names.LABEL_JOB_UID: uid,
        names.LABEL_STAGE: stage.value,
        names.LABEL_ATTEMPT: str(attempt),
    }


def job_manifest(
    job: FineTuneJob,
    *,
    namespace: str,
    uid: str,
    stage: Stage,
    attempt: int,
    settings: Settings,
    micro_batch_size: int | None = None,
    model_revision: str | None = None,
) -> Manifest:
    """The batch/v1 Job of one attempt; see RunFile.of for `micro_batch_size` and `model_revision`."""
    name, own_name = job.metadata.name, job_name(job.metadata.name, uid, stage, attempt)
    nodes = job.spec.resources.nodes if stage is Stage.TRAIN else 1
    subdomain = service_name(own_name, uid) if nodes > 1 else None
    run = RunFile.of(
        job,
        namespace=namespace,
        uid=uid,
        stage=stage,
        attempt=attempt,
        micro_batch_size=micro_batch_size,
        model_revision=model_revision,
        coordinator=f"{own_name}-0.{subdomain}" if subdomain else None,
    )
    spec: Manifest = {
        "backoffLimit": 0,
        "completions": nodes,
        "parallelism": nodes,
        "podReplacementPolicy": "Failed",  # never two trainers on one output prefix
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {
            "metadata": {
                "labels": labels(name, uid, stage, attempt),
                "annotations": {names.ANNOTATION_RUN_FILE: run.to_json()},
            },
            "spec": _pod_spec(job.spec, stage, settings),
        },
    }
    if subdomain:
        spec |= {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}
        spec["template"]["spec"]["subdomain"] = subdomain
    queue = job.spec.queue_labels
    if queue:  # born suspended: where Kueue is down, or not there, nothing runs past the quota
        spec["suspend"] = True
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": own_name,
            "namespace": namespace,
            "labels": labels(name, uid, stage, attempt) | queue,
            "ownerReferences": [_owner(name, uid)],
        },
        "spec": spec,
    }


def service_manifest(job: Manifest) -> Manifest | None:
    """The headless Service that gives the pods of a Job their names in DNS; None where the Job has one pod only.

    Like the Job it belongs to the FineTuneJob: it is there before the Job is, and a Service without pods costs nothing.
    """
    pod, metadata = job["spec"]["template"], job["metadata"]
    if "subdomain" not in pod["spec"]:
        return None
    selected = (names.LABEL_JOB_UID, names.LABEL_STAGE, names.LABEL_ATTEMPT)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "name": pod["spec"]["subdomain"]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # they look for each other before anything is ready
            "selector": {label: metadata["labels"][label] for label in selected},
            "ports": [
                {"name": "gang", "port": names.COORDINATOR_PORT, "protocol": "TCP"},
                {"name": "torch", "port": names.COORDINATOR_PORT + 1, "protocol": "TCP"},
            ],
        },
    }


def _owner(name: str, uid: str) -> Manifest:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _failure_rules() -> list[Manifest]:
    """An interruption is no failure: the Job replaces the pod. Anything else is for the operator to decide.

    Several nodes have the same rules: a pod that is told to stop takes the others along, all of them end with 75, and
    the Job replaces each. A rule that failed the Job for 75 would fail it for `suspend`, too.
    """
    interrupted = [int(ExitCode.PREEMPTED)]
    exit_codes = {"containerName": names.TRAINER_CONTAINER, "values": interrupted}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**exit_codes, "operator": "In"}},
        {"action": "FailJob", "onExitCodes": {**exit_codes, "operator": "NotIn"}},
    ]


def _pod_spec(spec: Spec, stage: Stage, settings: Settings) -> Manifest:
    resources = spec.resources
    where = resources if stage is Stage.TRAIN else resources.prepare
    optional = {
        "nodeSelector": where.node_selector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in resources.tolerations],
        "runtimeClassName": resources.runtime_class_name if stage is Stage.TRAIN else None,
        "priorityClassName": resources.priority_class_name,
        "serviceAccountName": spec.service_account_name,
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.termination_grace_seconds,
        "automountServiceAccountToken": spec.service_account_name is not None,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, stage, settings)],
        "volumes": [volume for volume, _ in _volumes(spec)],
        **{key: value for key, value in optional.items() if value},
    }


def _container(spec: Spec, stage: Stage, settings: Settings) -> Manifest:
    image = spec.image or settings.trainer_image
    return {
        "name": names.TRAINER_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--stop-grace-seconds", str(_worker_seconds(settings.termination_grace_seconds))],
        "env": [*_environment(spec), {"name": names.IMAGE_VARIABLE, "value": image}],
        **_secrets_of_trackers(spec),
        "ports": [{"name": "progress", "containerPort": names.TRAINER_PORT, "protocol": "TCP"}],
        "resources": _resources(spec.resources, stage),
        "volumeMounts": [mount for _, mount in _volumes(spec)],
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "File",  # the log's tail is no outcome, and may hold what a status must not
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def _worker_seconds(grace: int) -> int:
    """What the worker has of the pod's grace period; the rest is for the last upload and the termination message."""
    return max(1, grace - min(10, grace // 2))


def _resources(resources: Resources, stage: Stage) -> Manifest:
    asked = resources if stage is Stage.TRAIN else resources.prepare
    limits = {"memory": asked.memory}
    if resources.gpus and stage is Stage.TRAIN:
        limits[resources.gpu_resource] = str(resources.gpus)
    return {"requests": {"cpu": asked.cpu, "memory": asked.memory}, "limits": limits}


def _environment(spec: Spec) -> list[Manifest]:
    """Credentials go by reference only: the operator never sees them."""
    variables: list[Manifest] = [
        {"name": "HOME", "value": names.WORK_DIR},
        {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
        # One thread per CPU asked for, rounded up: threads that wait for a CPU of somebody else spin, and all get slow.
        {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}},
    ]
    if spec.storage.secret_name:
        secret = spec.storage.secret_name
        variables += [
            _from_secret(secret, "AWS_ACCESS_KEY_ID"),
            _from_secret(secret, "AWS_SECRET_ACCESS_KEY"),
            _from_secret(secret, "AWS_SESSION_TOKEN", optional=True),
        ]
    if spec.model.secret_name:
        variables.append(_from_secret(spec.model.secret_name, "HF_TOKEN"))
    return variables


def _secrets_of_trackers(spec: Spec) -> Manifest:
    """In both stages: a Secret that is missing shall not be noticed only once a GPU is held."""
    names_of = dict.fromkeys(tracker.secret_name for tracker in spec.training.trackers if tracker.secret_name)
    references = [{"secretRef": {"name": secret}} for secret in names_of]
    return {"envFrom": references} if references else {}


def _from_secret(secret: str, key: str, *, optional: bool = False) -> Manifest:
    reference: Manifest = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def _volumes(spec: Spec) -> list[tuple[Manifest, Manifest]]:
    """Pairs of a volume and its mount."""
    resources = spec.resources
    run_file = {
        "path": _RUN_FILE_NAME,
        "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_RUN_FILE}']"},
    }
    pairs: list[tuple[Manifest, Manifest]] = [
        (
            {"name": "run", "downwardAPI": {"items": [run_file]}},
            {"name": "run", "mountPath": _RUN_FILE_FOLDER, "readOnly": True},
        ),
        (
            {"name": "work", "emptyDir": {"sizeLimit": resources.work_storage}},
            {"name": "work", "mountPath": names.WORK_DIR},
        ),
        ({"name": "tmp", "emptyDir": {}}, {"name": "tmp", "mountPath": "/tmp"}),  # noqa: S108 - the pod's own
        (
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": resources.shared_memory}},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own
        ),
    ]
    for number, (claim, read_only) in enumerate(_claims(spec).items()):
        volume = f"pvc-{number}"
        pairs.append(
            (
                {"name": volume, "persistentVolumeClaim": {"claimName": claim}},
                {"name": volume, "mountPath": f"/pvc/{claim}", "readOnly": read_only},
            )
        )
    return pairs


def _claims(spec: Spec) -> dict[str, bool]:
    """Every claim that a URI names, and whether reading it is enough."""
    sources = source_uris(spec.model, spec.dataset)
    claims = {_claim(uri): True for uri in sources if uri.startswith(CLAIM)}
    if spec.output.uri.startswith(CLAIM):
        claims[_claim(spec.output.uri)] = False
    return claims


def _claim(uri: str) -> str:
    return uri.removeprefix(CLAIM).split("/", 1)[0]
