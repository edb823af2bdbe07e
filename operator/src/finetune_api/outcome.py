"""How a run ends: exit codes, failure reasons and the termination message.

The termination message is the only result channel the operator trusts. Kubernetes cuts it at 4096 bytes
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/), so it is kept below that here.
"""

from enum import IntEnum, StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MAX_MESSAGE_BYTES = 4096
MAX_METRICS = 8


class ExitCode(IntEnum):
    """Exit codes of the trainer; the numbers follow sysexits.h where it has a fitting one."""

    SUCCESS = 0
    INVALID_CONFIGURATION = 64
    INVALID_DATASET = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    DENIED = 73
    PREEMPTED = 75
    OUT_OF_GPU_MEMORY = 80
    DIVERGED = 81
    PEER_LOST = 82
    VERIFICATION_FAILED = 83
    MERGE_REFUSED = 84
    QUALITY_GATE_FAILED = 85
    OUT_OF_MEMORY = 137
    """128 + SIGKILL: set by the kernel, never by the trainer itself."""


class Reason(StrEnum):
    """Why a run ended, as the trainer says it. CamelCase, as Kubernetes wants reasons."""

    PREPARED = "Prepared"
    PUBLISHED = "Published"
    ALREADY_PUBLISHED = "AlreadyPublished"
    """Of `prepare`: the result is in the bucket, and nothing need be trained."""
    TOOK_PART = "TookPart"
    """Of every node but the first, whose word is the result."""
    INVALID_CONFIGURATION = "InvalidConfiguration"
    INVALID_DATASET = "InvalidDataset"
    EMPTY_DATASET = "EmptyDataset"
    TOO_MANY_INVALID_ROWS = "TooManyInvalidRows"
    MODEL_NOT_FOUND = "ModelNotFound"
    DATASET_NOT_FOUND = "DatasetNotFound"
    GATED_MODEL = "GatedModel"
    UNSAFE_MODEL = "UnsafeModel"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    HUB_UNAVAILABLE = "HubUnavailable"
    GPU_UNAVAILABLE = "GPUUnavailable"
    INTERNAL_ERROR = "InternalError"
    STORAGE_DENIED = "StorageDenied"
    BUCKET_NOT_FOUND = "BucketNotFound"
    PREEMPTED = "Preempted"
    OUT_OF_GPU_MEMORY = "OutOfGPUMemory"
    NON_FINITE_LOSS = "NonFiniteLoss"
    DIVERGED = "Diverged"
    HANG = "Hang"
    PEER_LOST = "PeerLost"
    VERIFICATION_FAILED = "VerificationFailed"
    MERGE_REFUSED = "MergeRefused"
    QUALITY_GATE_FAILED = "QualityGateFailed"
    OUT_OF_MEMORY = "OutOfMemory"

    @property
    def exit_code(self) -> ExitCode:
        """The code the trainer exits with for this reason."""
        return _EXIT_CODES[self]

    @property
    def follow_up(self) -> "FollowUp":
        """What the operator does after an attempt that ended for this reason."""
        return FollowUp.PROCEED if self is Reason.PREPARED else _FOLLOW_UPS[self.exit_code]


class FollowUp(StrEnum):
    """What follows an ended attempt."""

    SUCCEED = "Succeed"
    PROCEED = "Proceed"
    """Go on with the next stage."""
    FAIL = "Fail"
    """Final: trying again would end the same way."""
    RETRY = "Retry"
    """Try again after a pause; counts against `spec.retries`."""
    RESUME = "Resume"
    """Go on from the last checkpoint; never counted."""
    CONTINUE = "Continue"
    """Go on from the last checkpoint once the user wants it; counted nowhere."""
    SHRINK = "Shrink"
    """Go on with half the micro-batch and twice the accumulation; final where there is no half."""


_EXIT_CODES = {
    Reason.PREPARED: ExitCode.SUCCESS,
    Reason.PUBLISHED: ExitCode.SUCCESS,
    Reason.ALREADY_PUBLISHED: ExitCode.SUCCESS,
    Reason.TOOK_PART: ExitCode.SUCCESS,
    Reason.INVALID_CONFIGURATION: ExitCode.INVALID_CONFIGURATION,
    Reason.INVALID_DATASET: ExitCode.INVALID_DATASET,
    Reason.EMPTY_DATASET: ExitCode.INVALID_DATASET,
    Reason.TOO_MANY_INVALID_ROWS: ExitCode.INVALID_DATASET,
    Reason.MODEL_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.DATASET_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.GATED_MODEL: ExitCode.NOT_FOUND,
    Reason.UNSAFE_MODEL: ExitCode.INVALID_CONFIGURATION,
    Reason.STORAGE_UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.HUB_UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.GPU_UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.INTERNAL_ERROR: ExitCode.INTERNAL,
    Reason.STORAGE_DENIED: ExitCode.DENIED,
    Reason.BUCKET_NOT_FOUND: ExitCode.DENIED,
    Reason.PREEMPTED: ExitCode.PREEMPTED,
    Reason.OUT_OF_GPU_MEMORY: ExitCode.OUT_OF_GPU_MEMORY,
    Reason.NON_FINITE_LOSS: ExitCode.DIVERGED,
    Reason.DIVERGED: ExitCode.DIVERGED,
    Reason.HANG: ExitCode.PEER_LOST,
    Reason.PEER_LOST: ExitCode.PEER_LOST,
    Reason.VERIFICATION_FAILED: ExitCode.VERIFICATION_FAILED,
    Reason.MERGE_REFUSED: ExitCode.MERGE_REFUSED,
    Reason.QUALITY_GATE_FAILED: ExitCode.QUALITY_GATE_FAILED,
    Reason.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
}

_FOLLOW_UPS = {
    ExitCode.SUCCESS: FollowUp.SUCCEED,
    ExitCode.INVALID_CONFIGURATION: FollowUp.FAIL,
    ExitCode.INVALID_DATASET: FollowUp.FAIL,
    ExitCode.NOT_FOUND: FollowUp.FAIL,
    ExitCode.UNAVAILABLE: FollowUp.RETRY,
    ExitCode.INTERNAL: FollowUp.RETRY,
    ExitCode.DENIED: FollowUp.FAIL,
    ExitCode.PREEMPTED: FollowUp.RESUME,
    ExitCode.OUT_OF_GPU_MEMORY: FollowUp.SHRINK,
    ExitCode.DIVERGED: FollowUp.FAIL,
    ExitCode.PEER_LOST: FollowUp.RETRY,
    ExitCode.VERIFICATION_FAILED: FollowUp.RETRY,
    ExitCode.MERGE_REFUSED: FollowUp.FAIL,
    ExitCode.QUALITY_GATE_FAILED: FollowUp.FAIL,
    ExitCode.OUT_OF_MEMORY: FollowUp.FAIL,
}


class _Document(BaseModel):
    """A JSON document between two of our own processes: camelCase on the wire, made with known fields only."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Artifact(_Document):
    """The published adapter, as read back from storage."""

    uri: str
    manifest_sha256: str
    bytes: int
    files: int


class DatasetReport(_Document):
    """What the trainer saw of the dataset."""

    sha256: str
    """Of the training file(s), as downloaded."""
    rows: int
    evaluation_rows: int
    tokens: int
    trained_tokens: int
    dropped_rows: int = 0
    """Rows longer than `training.maxLength` that were left out, of both sources."""
    format: str = ""
    """What a training row looks like: a value of `dataset.format`, never Auto."""
    truncated_rows: int = 0
    """Rows that were cut to `training.maxLength`, of both sources."""
    unfinished_rows: int = 0
    """Truncated rows that lost the token which ends their last trained turn."""
    invalid_rows: int = 0
    """Rows that could not be used and were skipped, of both sources."""
    duplicate_rows: int = 0
    """Training rows that repeat an earlier one, token by token; they are kept."""
    longest_row: int = 0
    """Tokens of the longest training row, before any is dropped or truncated; so are the percentiles."""
    p50_length: int = 0
    p95_length: int = 0
    p99_length: int = 0
    model_revision: str | None = Field(default=None, max_length=64)
    """Commit of the hf:// model whose tokenizer made the rows; those who train them take the same."""


class Outcome(_Document):
    """The one JSON document that says how a run ended."""

    reason: Reason
    message: str
    hint: str = ""
    step: int = 0
    resumed_from: int | None = Field(default=None, ge=0)
    """The step that this session began with, 0 without a checkpoint; None where it never came to training."""
    artifact: Artifact | None = None
    dataset: DatasetReport | None = None
    loss: float | None = None
    """Training loss of the last logged step."""
    loss_before: float | None = None
    """Evaluation loss (mean NLL per trained token, nats) of the base model."""
    loss_after: float | None = None
    loss_merged: float | None = None
    """Of the merged model, in the dtype it is published in."""
    metrics_before: dict[str, float] = Field(default={}, max_length=MAX_METRICS)
    """What the task measures on the held-out rows beside the loss, by name; see `loss_before`."""
    metrics_after: dict[str, float] = Field(default={}, max_length=MAX_METRICS)
    peak_memory_bytes: int | None = Field(default=None, ge=0)
    """Measured: of the GPU where there is one, else of the training process."""
    estimated_memory_bytes: int | None = Field(default=None, ge=0)
    """Of the same, told before."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """What `prepare` chose, where the job leaves it to that."""

    def to_termination_message(self) -> str:
        """Render as JSON of at most 4096 bytes; message and hint are cut first, facts never."""
        for limit in (MAX_MESSAGE_BYTES, 2000, 1000, 500, 250, 100):
            shortened = {"message": _cut(self.message, limit), "hint": _cut(self.hint, limit)}
            text = self.model_copy(update=shortened).model_dump_json(by_alias=True, exclude_none=True)
            if len(text.encode()) <= MAX_MESSAGE_BYTES:
                return text
        raise ValueError(
            f"the outcome is {len(text.encode())} bytes even with its message cut, over {MAX_MESSAGE_BYTES}"
        )

    @classmethod
    def from_termination_message(cls, text: str) -> Self:
        """Read what `to_termination_message` wrote, of a newer version, too, whose further fields are left out.

        Raises:
            pydantic.ValidationError: For anything else.
        """
        return cls.model_validate_json(text, extra="ignore")


def _cut(text: str, limit: int) -> str:
    """Shorten to `limit` UTF-8 bytes, saying so."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 4].decode(errors="ignore") + " ..."
