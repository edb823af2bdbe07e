"""The object itself: the spec as a whole."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.base import Object, ObjectName, Rule
from finetune_api.names import API_VERSION, LABEL_QUEUE, LABEL_QUEUE_PRIORITY, MAX_NAME_LENGTH
from finetune_api.v1alpha1.combinations import COMBINATION_RULES
from finetune_api.v1alpha1.data import Dataset, Model
from finetune_api.v1alpha1.evaluation import HELD_OUT_RULES, Evaluation
from finetune_api.v1alpha1.extensions import EXTENSION_RULES, Debug, Extensions
from finetune_api.v1alpha1.method import Method
from finetune_api.v1alpha1.output import Output
from finetune_api.v1alpha1.parallelism import PARALLELISM_RULES
from finetune_api.v1alpha1.place import Deadlines, Resources, Storage
from finetune_api.v1alpha1.task import Task
from finetune_api.v1alpha1.task_rules import TASK_RULES
from finetune_api.v1alpha1.training import Training


class Spec(Object):
    """What to train, on what, how, where, and where the result goes."""

    rules = (
        Rule(
            cel="self.training.batchSize % (self.training.microBatchSize * (self.resources.gpus > 1 ? "
            "self.resources.gpus : 1) * self.resources.nodes) == 0",
            holds=lambda s: s.training.batch_size % (s.training.micro_batch_size * s.resources.processes) == 0,
            message="training.batchSize must be a multiple of training.microBatchSize times resources.gpus times "
            "resources.nodes",
            field="training.batchSize",
        ),
        Rule(
            cel="!has(self.workloadPriorityClassName) || has(self.queueName)",
            holds=lambda s: s.workload_priority_class_name is None or s.queue_name is not None,
            message="workloadPriorityClassName is an order within a queue; set queueName, or remove it",
            field="workloadPriorityClassName",
        ),
        *COMBINATION_RULES,
        *HELD_OUT_RULES,
        *EXTENSION_RULES,
        *TASK_RULES,
        *PARALLELISM_RULES,
    )
    model: Model
    """The base model."""
    dataset: Dataset
    """The rows to learn from."""
    task: Task = Task()
    """What the model learns to do."""
    method: Method = Method()
    """How the model is tuned."""
    training: Training = Training()
    """The training run."""
    evaluation: Evaluation = Evaluation()
    """Evaluation during training."""
    extensions: Extensions = Extensions()
    """Code of the trainer image that takes part."""
    debug: Debug = Debug()
    """Looking into a run."""
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
    queue_name: ObjectName | None = None
    """Kueue's LocalQueue that this job's Jobs wait in, of both stages. Unset: they start at once. Changes while suspend
    is true."""
    workload_priority_class_name: ObjectName | None = None
    """Kueue's WorkloadPriorityClass: the job's place in its queue, and whom it preempts. Changes while suspend is
    true."""
    suspend: bool = False
    """True stops the run (a checkpoint is saved first) and frees its GPUs; false goes on."""
    rerun: bool = False
    """True trains even where output.uri has the verified result of a job with the same model, data and settings. False
    takes that result: an object that is deleted and applied again costs no GPU."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """New attempts after failures that another try can heal. Preemption never counts."""
    deadlines: Deadlines = Deadlines()
    """When to give up."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete the FineTuneJob this long after its end; the adapter stays. Unset: keep it."""

    @property
    def queue_labels(self) -> dict[str, str]:
        """What makes a Job one of Kueue's; nothing without a queue."""
        labels = {LABEL_QUEUE: self.queue_name, LABEL_QUEUE_PRIORITY: self.workload_priority_class_name}
        return {label: value for label, value in labels.items() if value is not None}


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
