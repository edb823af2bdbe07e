"""Every name that crosses a border: group, labels, annotations, paths, condition types and condition reasons."""

from enum import StrEnum

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SINGULAR = "finetunejob"
SHORT_NAME = "ftj"

MANAGED_BY = "finetune-operator"
"""Value of `app.kubernetes.io/managed-by` on every child; the operator lists and watches only what carries it."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB_NAME = f"{GROUP}/job"
LABEL_JOB_UID = f"{GROUP}/uid"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_ATTEMPT = f"{GROUP}/attempt"

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""On a Job it says that the Job is Kueue's to suspend and to place (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/)."""
LABEL_QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"

ANNOTATION_RUN_FILE = f"{GROUP}/run"
"""The run file as JSON, on the pod template: an attempt is one object, so it is created or it is not."""

MAX_NAME_LENGTH = 52
"""A longer FineTuneJob name would not fit its Job (63) with the suffix `-<7 hex digits>` and a pod's number, `-63`."""

TRAINER_CONTAINER = "trainer"
TRAINER_PORT = 8080
"""PID 1 of the trainer serves `/progress` and `/metrics` here."""

COORDINATOR_PORT = 29400
"""On the first of several nodes PID 1 listens here for the others, and the first worker at the next port."""

RUN_FILE_PATH = "/etc/finetune/run.json"
WORK_DIR = "/work"
IMAGE_VARIABLE = "FINETUNE_IMAGE"
"""Environment of the trainer: the image as the pod names it."""
TERMINATION_LOG = "/dev/termination-log"


class Stage(StrEnum):
    """The steps of a job; each is tried by attempts, and each attempt is one batch/v1 Job."""

    PREPARE = "prepare"
    """CPU only: read, check and tokenize every row; the result lies in storage before a GPU is asked for."""
    TRAIN = "train"
    """Train, evaluate, verify, publish."""


class Condition(StrEnum):
    """Condition types of a FineTuneJob's status."""

    SUCCEEDED = "Succeeded"
    """The verdict: Unknown while active, then True or False for good. Its reason is what `kubectl get` shows."""
    PREPARED = "Prepared"
    """True once the dataset has been read, checked and tokenized."""
    SUSPENDED = "Suspended"
    RECONCILING = "Reconciling"
    """True while the operator still has something to do (kstatus reads it as InProgress)."""
    STALLED = "Stalled"
    """True when nothing more will happen without a person (kstatus reads it as Failed)."""


class ActiveReason(StrEnum):
    """Reasons of `Succeeded=Unknown`: what the job is doing now."""

    QUEUED = "Queued"
    """Kueue has not admitted the Job, or has taken its quota back."""
    PENDING = "Pending"
    STARTING = "Starting"
    PREPARING = "Preparing"
    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    RETRYING = "Retrying"
    SUSPENDED = "Suspended"


class ClusterReason(StrEnum):
    """Reasons that only the operator can see: evidence from Jobs, Pods and the API server, never a guess."""

    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    MISSING_SECRET = "MissingSecret"  # noqa: S105 - a reason, not a secret
    MISSING_SERVICE_ACCOUNT = "MissingServiceAccount"
    VOLUME_MOUNT_FAILED = "VolumeMountFailed"
    """A node has the pod and cannot attach or mount one of its volumes."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_CONFLICT = "NameConflict"
    WEBHOOK_UNAVAILABLE = "WebhookUnavailable"
    """An admission webhook of somebody else gives no answer, so that no Job or pod can be created or changed."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    TRAINER_SILENT = "TrainerSilent"
    """It answered before, and does not any more, although its container counts as running."""
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    JOB_DELETED = "JobDeleted"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN = "Unknown"
    """The attempt failed and left no evidence why; the message says what was seen."""
