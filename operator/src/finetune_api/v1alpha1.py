"""FineTuneJob v1alpha1: the only source of the CRD, of the job file's checks and of the reference page.

Every attribute docstring becomes the field's description in `kubectl explain`. Numbers are bounded, durations are
integers that say their unit, and there are no floats: decimals are strings with a pattern.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.base import Decimal, Object, ObjectName, Quantity, Rule, SourceURI, TargetURI
from finetune_api.names import API_VERSION, MAX_NAME_LENGTH

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
LIST_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}


class Model(Object):
    """The base model."""

    uri: SourceURI
    """Where the model's safetensors, config and tokenizer are: s3://bucket/prefix, hf://owner/name or pvc://claim/path."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]+$", max_length=128)] | None = None
    """Commit, tag or branch of an hf:// model. A full commit makes the run repeatable."""
    secret_name: ObjectName | None = None
    """Secret whose key HF_TOKEN opens a gated hf:// model."""


class DataSource(Object):
    """One file of rows."""

    uri: SourceURI
    """A JSONL file, one row a line: s3://bucket/file.jsonl, hf://datasets/owner/name/file.jsonl or pvc://claim/file.jsonl."""


class Dataset(Object):
    """The rows to learn from. A row holds `messages` (a chat) or `prompt` and `completion`."""

    train: DataSource
    """Rows to train on."""
    evaluation: DataSource | None = None
    """Held-out rows; their loss is measured before and after training."""


class MethodType(StrEnum):
    """How the model is tuned."""

    QLORA = "QLoRA"
    LORA = "LoRA"


class Quantization(Object):
    """How QLoRA stores the frozen base weights (https://arxiv.org/abs/2305.14314)."""

    type: Literal["NF4"] = "NF4"
    """The 4-bit data type."""
    double_quantization: bool = True
    """Quantize the quantization constants too; saves about 0.4 bit a parameter."""


class Method(Object):
    """The fine-tuning method and its size."""

    rules = (
        Rule(
            cel="self.type == 'QLoRA' || !has(self.quantization)",
            holds=lambda m: m.type is MethodType.QLORA or m.quantization is None,
            message="method.quantization goes with type QLoRA only; remove it or set type: QLoRA",
            field="quantization",
        ),
        Rule(
            cel="double(self.dropout) < 1.0",
            holds=lambda m: float(m.dropout) < 1,
            message='method.dropout must be below 1, for instance "0.05"',
            field="dropout",
        ),
    )
    type: Annotated[MethodType, Field(strict=False)] = MethodType.QLORA
    """QLoRA: LoRA on a 4-bit base. LoRA: the base keeps its own precision."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapter's matrices."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank."""
    dropout: Decimal = "0.05"
    """Dropout on the adapter's input, 0 to below 1."""
    target_modules: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=128)]],
        Field(min_length=1, max_length=64, json_schema_extra=LIST_SET),
    ] = ["all-linear"]
    """Module names that get an adapter, or all-linear: every linear layer but the output head."""
    quantization: Quantization | None = None
    """How the base is quantized; QLoRA only. Defaults to NF4 with double quantization."""


class Scheduler(StrEnum):
    """How the learning rate goes down after the warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    CONSTANT = "Constant"


class Precision(StrEnum):
    """The dtype that training computes in."""

    AUTO = "Auto"
    BFLOAT16 = "BFloat16"
    FLOAT32 = "Float32"


class Checkpoints(Object):
    """Checkpoints go to `<output>/.finetune/<uid>/checkpoints`; a run that was cut off goes on from the newest."""

    every_steps: Count = 50
    """Optimizer steps between two checkpoints."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many checkpoints stay in storage."""


class Training(Object):
    """The training run. Fields are named after transformers.TrainingArguments where it has them."""

    rules = (
        Rule(
            cel="self.batchSize % self.microBatchSize == 0",
            holds=lambda t: t.batch_size % t.micro_batch_size == 0,
            message="training.batchSize must be a multiple of training.microBatchSize",
            field="batchSize",
        ),
        Rule(
            cel="double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0",
            holds=lambda t: 0 < float(t.learning_rate) <= 1,
            message='training.learningRate must be above 0 and at most 1, for instance "2e-4"',
            field="learningRate",
        ),
        Rule(
            cel="double(self.warmupRatio) < 1.0",
            holds=lambda t: float(t.warmup_ratio) < 1,
            message='training.warmupRatio must be below 1, for instance "0.03"',
            field="warmupRatio",
        ),
    )
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    """Times every row is seen."""
    max_steps: Count | None = None
    """Optimizer steps; when set, it wins over epochs."""
    learning_rate: Decimal = "2e-4"
    """Peak learning rate."""
    scheduler: Annotated[Scheduler, Field(strict=False)] = Scheduler.COSINE
    """Linear or Cosine to zero, or Constant."""
    warmup_ratio: Decimal = "0.03"
    """Share of the steps in which the learning rate rises, 0 to below 1."""
    weight_decay: Decimal = "0"
    """AdamW's weight decay."""
    max_gradient_norm: Decimal = "1.0"
    """Gradients are clipped to this norm; 0 turns clipping off."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Sequences per optimizer step, over all processes."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Sequences per process and forward pass; changes memory and speed, never the result."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest row in tokens; longer rows are left out and counted."""
    precision: Annotated[Precision, Field(strict=False)] = Precision.AUTO
    """Auto: BFloat16 on a GPU that has it, else Float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 42
    """Seed of the adapter's start, of the order of rows and of dropout."""
    logging_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimizer steps between two log lines."""
    checkpoints: Checkpoints = Checkpoints()
    """When to save, and how much to keep."""


class Evaluation(Object):
    """Evaluation during training; before and after it always happens when there are held-out rows."""

    every_steps: Count | None = None
    """Optimizer steps between two evaluations; none in between when unset."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences per forward pass."""


class Toleration(Object):
    """A toleration of the trainer's pod, as in core/v1."""

    key: Annotated[str, Field(max_length=253)] | None = None
    """Taint key; none matches every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; none matches every effect."""


class Resources(Object):
    """What the trainer's pod asks for and where it may run."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of the pod, one process each; 0 trains on the CPU."""
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=128)] = "nvidia.com/gpu"
    """Extended resource that stands for one GPU."""
    cpu: Quantity = "2"
    """CPU request."""
    memory: Quantity = "8Gi"
    """Memory request and limit."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm; counts against memory."""
    work_storage: Quantity = "50Gi"
    """Limit of the scratch volume that holds model, data and checkpoints during the run."""
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = {}
    """Labels a node must carry."""
    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] = []
    """Taints the pod tolerates."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pod, for instance nvidia."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pod."""


class Storage(Object):
    """Access to s3:// URIs."""

    secret_name: ObjectName | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where needed. Unset: the pod's
    own identity (serviceAccountName)."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/.*)?$", max_length=512)] | None = None
    """URL of an S3-compatible server; unset means AWS."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=64)] = "us-east-1"
    """S3 region."""


class Output(Object):
    """Where the result goes."""

    uri: TargetURI
    """Prefix of the adapter: s3://bucket/prefix or pvc://claim/path. manifest.json is written there last."""


class Deadlines(Object):
    """When to give up. Unset means never."""

    pending_seconds: Seconds | None = None
    """From creation of an attempt to its container running."""
    active_seconds: Seconds | None = None
    """Of an attempt, from its start; becomes the Job's activeDeadlineSeconds."""


_FIXED = "is immutable; create a new FineTuneJob with another name instead"


class Spec(Object):
    """What to train, on what, how, where, and where the result goes."""

    rules = (
        Rule(
            cel="self.training.batchSize % (self.training.microBatchSize * (self.resources.gpus > 1 ? "
            "self.resources.gpus : 1)) == 0",
            holds=lambda s: s.training.batch_size % (s.training.micro_batch_size * max(1, s.resources.gpus)) == 0,
            message="training.batchSize must be a multiple of training.microBatchSize times resources.gpus",
            field="training.batchSize",
        ),
    )
    model: Model
    """The base model."""
    dataset: Dataset
    """The rows to learn from."""
    method: Method = Method()
    """How the model is tuned."""
    training: Training = Training()
    """The training run."""
    evaluation: Evaluation = Evaluation()
    """Evaluation during training."""
    resources: Resources = Resources()
    """What the trainer's pod asks for."""
    storage: Storage = Storage()
    """Access to s3:// URIs."""
    output: Output
    """Where the result goes."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Trainer image; unset means the operator's default."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the trainer's pod. Unset: none, and no token is mounted."""
    suspend: bool = False
    """True stops the run (a checkpoint is saved first) and frees its GPUs; false goes on."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """New attempts after failures that another try can heal. Preemption never counts."""
    deadlines: Deadlines = Deadlines()
    """When to give up."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete the FineTuneJob this long after its end; the adapter stays. Unset: keep it."""


IMMUTABLE_FIELDS = (
    "model",
    "dataset",
    "method",
    "training",
    "evaluation",
    "resources",
    "storage",
    "output",
)
"""Sub-trees of the spec that cannot change after creation: the operator never re-applies a Job."""
IMMUTABLE_MESSAGE = _FIXED


class ObjectMeta(BaseModel):
    """The part of metadata that is ours to judge; the API server judges the rest."""

    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=MAX_NAME_LENGTH)]
    namespace: str | None = None
    uid: str | None = None


class FineTuneJob(BaseModel):
    """One fine-tuning job: a base model, a dataset, a method, and a bucket for the verified adapter."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    api_version: Annotated[Literal["finetune.dev/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["FineTuneJob"]
    metadata: ObjectMeta
    spec: Spec
    """What to do."""
    status: dict[str, Any] | None = None
    """Written by the operator; ignored in a job file."""


assert FineTuneJob.model_fields["api_version"].annotation == Literal[API_VERSION]  # type: ignore[comparison-overlap]  # noqa: S101
