"""The status of a FineTuneJob: what the operator writes, and `kubectl get` shows."""

from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.base import Object
from finetune_api.outcome import MAX_METRICS

Time = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
Short = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Message = Annotated[str, Field(max_length=4096)]
Number = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]
SignedDecimal = Annotated[str, Field(max_length=24)]
Metrics = Annotated[dict[str, SignedDecimal], Field(max_length=MAX_METRICS)]

MAX_ATTEMPTS_LISTED = 20
"""Older attempts fall out of `status.attempts`; the counters stay right."""


class StatusCondition(Object):
    """A condition as in metav1.Condition."""

    type: Annotated[str, Field(max_length=64)]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """The verdict."""
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9]*)$", max_length=128)]
    """Why, in one CamelCase word."""
    message: Message = ""
    """Why, in a sentence."""
    last_transition_time: Time
    """When status last changed."""
    observed_generation: Annotated[int, Field(ge=0)]
    """The generation of the spec that was judged."""


class ProgressStatus(Object):
    """Where the run is now."""

    phase: Short = ""
    """Loading, Training, Evaluating or Publishing."""
    percentage: Short = ""
    """Share of the steps done, for instance 62%; 100% only once the adapter is verified."""
    step: Number = 0
    """Optimizer steps done."""
    total_steps: Number = 0
    """Optimizer steps in all."""
    loss: SignedDecimal | None = None
    """Training loss of the last logged step."""
    resumed_from: Number | None = None
    """The step that the trainer began with; 0 without a checkpoint."""
    eta: Short | None = None
    """Time left, for instance 4m10s."""
    estimated_completion_time: Time | None = None
    """When training ends by that estimate."""
    message: Annotated[str, Field(max_length=512)] = ""
    """What the trainer is doing, in a sentence."""
    updated_time: Time | None = None
    """When the trainer said so."""


class DatasetStatus(Object):
    """What the trainer saw of the dataset."""

    sha256: Short
    """Of the training file as downloaded."""
    rows: Number
    """Training rows."""
    evaluation_rows: Number
    """Held-out rows."""
    tokens: Number
    """Tokens of the training rows."""
    trained_tokens: Number
    """Tokens that carry loss."""
    dropped_rows: Number = 0
    """Rows over training.maxLength that were left out, held-out ones included."""
    format: Short = ""
    """What a row looks like."""
    truncated_rows: Number = 0
    """Rows cut to training.maxLength, held-out ones included."""
    unfinished_rows: Number = 0
    """Truncated rows that lost the token that ends their last trained turn."""
    invalid_rows: Number = 0
    """Rows that could not be used and were skipped, held-out ones included."""
    duplicate_rows: Number = 0
    """Training rows that repeat an earlier one; they are kept."""
    longest_row: Number = 0
    """Tokens of the longest training row, before any is dropped or truncated."""
    p50_length: Number = 0
    """Half of the training rows have at most this many tokens."""
    p95_length: Number = 0
    """95 % of the training rows have at most this many tokens."""
    p99_length: Number = 0
    """99 % of the training rows have at most this many tokens."""
    model_revision: Short | None = None
    """Commit of the hf:// model that prepare found; every attempt to train takes this one."""


class ArtifactStatus(Object):
    """The published adapter, as read back from storage."""

    uri: Annotated[str, Field(max_length=1024)]
    """Where it is."""
    manifest_sha256: Short
    """Digest of manifest.json, which holds every file's own digest."""
    bytes: Number
    """Size of all files together."""
    files: Number
    """Number of files."""


class EvaluationStatus(Object):
    """On the held-out rows; the loss is the mean negative log-likelihood per trained token or label, in nats."""

    loss_before: SignedDecimal | None = None
    """Of the base model."""
    loss_after: SignedDecimal | None = None
    """With the adapter."""
    loss_merged: SignedDecimal | None = None
    """Of the merged model, where output.merge asks for one."""
    metrics_before: Metrics | None = None
    """What the task measures beside the loss, for instance accuracy, from 0 to 1: of the base model."""
    metrics_after: Metrics | None = None
    """With the adapter."""


class MemoryStatus(Object):
    """Memory of the trainer."""

    estimated_bytes: Number | None = None
    """What training will take by our estimate: of one GPU, or resident on the CPU."""
    micro_batch_size: Number | None = None
    """The micro-batch that prepare chose, with training.autoMicroBatchSize."""
    peak_bytes: Number | None = None
    """What it took: largest allocation on the GPU, or largest resident size on the CPU."""


class AttemptStatus(Object):
    """One attempt: one batch/v1 Job."""

    number: Annotated[int, Field(ge=1)]
    """Counts from 1 within its stage."""
    stage: Short
    """Which stage it tried: prepare or train."""
    job_name: Name
    """Its Job."""
    start_time: Time | None = None
    """When its Job was created."""
    completion_time: Time | None = None
    """When it ended."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the trainer."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why it ended."""
    message: Message | None = None
    """Why it ended, in a sentence."""
    hint: Annotated[str, Field(max_length=1024)] | None = None
    """What to do about it."""
    step: Number | None = None
    """Last step it reached."""
    node_name: Name | None = None
    """Where it ran."""
    micro_batch_size: Number | None = None
    """Sequences per process and forward pass of training; below the spec's once GPU memory ran out."""
    resumed_from: Number | None = None
    """The step that its first trainer began with; 0 without a checkpoint."""
    steps_lost: Number = 0
    """Steps done before that its trainers did again."""
    interrupted_pods: Number = 0
    """Pods of it that were interrupted and are there to be seen; status.preemptions has them."""
    queued_seconds: Number = 0
    """Time it waited and held nothing: for quota, a node, a pod. Like all sums, up to countedUntil."""
    running_seconds: Number = 0
    """Time in which a trainer ran."""
    gpu_seconds: Number = 0
    """GPUs times the seconds that they were held, from a pod's start on its node to its end."""
    account: Short | None = None
    """What its time goes to since countedUntil: Queued, Starting, Running, Stopping, Suspended, Ended."""
    counted_until: Time | None = None
    """Up to then the sums are carried on; that is done when account changes."""
    pods: Number = 0
    """Pods that held a node then."""


class Status(Object):
    """Written by the operator."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """The generation of the spec that this status speaks of; -1 until the operator has seen the object."""
    conditions: Annotated[
        list[StatusCondition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    """Succeeded, Prepared, Suspended, Reconciling, Stalled."""
    model_name: Annotated[str, Field(max_length=256)] | None = None
    """Last part of spec.model.uri."""
    attempt: Number | None = None
    """Number of the newest attempt of the stage that the job is in."""
    job_name: Name | None = None
    """Job of the newest attempt."""
    start_time: Time | None = None
    """When the first attempt was created."""
    completion_time: Time | None = None
    """When the verdict fell."""
    progress: ProgressStatus | None = None
    """Where the run is now."""
    dataset: DatasetStatus | None = None
    """What the trainer saw of the dataset."""
    evaluation: EvaluationStatus | None = None
    """Loss before and after."""
    memory: MemoryStatus | None = None
    """Memory of the trainer."""
    artifact: ArtifactStatus | None = None
    """The published adapter."""
    attempts: Annotated[
        list[AttemptStatus],
        Field(
            max_length=MAX_ATTEMPTS_LISTED,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["stage", "number"]},
        ),
    ] = []
    """The newest attempts, oldest first."""
    failures: Number = 0
    """Attempts that count against spec.retries."""
    preemptions: Number = 0
    """Times the run was interrupted by the cluster."""
    queued_seconds: Number = 0
    """Of all attempts, those included that are not listed any more; as are all sums."""
    preparing_seconds: Number = 0
    """Time in which the prepare stage ran."""
    training_seconds: Number = 0
    """Time in which trainers ran in the train stage; deadlines.activeSeconds is its limit."""
    gpu_seconds: Number = 0
    """GPUs times the seconds that they were held."""
    steps_lost: Number = 0
    """Steps that were done again after an interruption or a failure."""

    def to_dict(self) -> dict[str, Any]:
        """The status as the API server stores it: camelCase, unset fields left out."""
        return self.model_dump(by_alias=True, exclude_none=True)
