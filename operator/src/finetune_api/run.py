"""The run file: what the operator (or `finetune run`) writes and the trainer reads. Versioned, JSON, no secrets."""

from typing import Annotated, Literal, Self

from pydantic import Field

from finetune_api.base import LOCAL, Object
from finetune_api.names import COORDINATOR_PORT, Stage
from finetune_api.v1alpha1 import (
    Dataset,
    Debug,
    Evaluation,
    Extensions,
    FineTuneJob,
    Method,
    Model,
    Output,
    Storage,
    Task,
    Training,
)


class RunFile(Object):
    """One attempt of one stage, complete: the trainer needs nothing else but credentials in its environment."""

    version: Literal["finetune.dev/run/v1"] = "finetune.dev/run/v1"
    """A trainer refuses a version it does not know."""
    name: str
    """Name of the FineTuneJob."""
    namespace: str
    """Namespace of the FineTuneJob; `local` outside a cluster."""
    uid: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=64)]
    """Uid of the FineTuneJob: names its folder below `<output>/.finetune/`."""
    stage: Annotated[Stage, Field(strict=False)] = Stage.TRAIN
    """What this attempt does. Training takes what `prepare` left in storage, and prepares where there is nothing."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counts from 1."""
    processes: Annotated[int, Field(ge=1, le=16)] = 1
    """Worker processes on each node: one per GPU, or one on the CPU."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods of this attempt; those of training work together."""
    training_nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, for `prepare` to know what each will hold."""
    coordinator: Annotated[str, Field(max_length=253)] | None = None
    """Host name or address of the first of several nodes."""
    coordinator_port: Annotated[int, Field(ge=1, le=65_534)] = COORDINATOR_PORT
    """The first node's PID 1 listens here, and its first worker at the next one."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of each node in training: a broken one shall not turn into days of training on the CPU."""
    gpu_memory: str | None = None
    """Memory of one GPU, as a Kubernetes quantity, where the job says it."""
    model: Model
    """As in the spec."""
    dataset: Dataset
    """As in the spec."""
    task: Task = Task()
    """As in the spec."""
    method: Method
    """As in the spec."""
    training: Training
    """As in the spec."""
    evaluation: Evaluation
    """As in the spec."""
    extensions: Extensions = Extensions()
    """As in the spec."""
    debug: Debug = Debug()
    """As in the spec."""
    storage: Storage
    """As in the spec."""
    output: Output
    """As in the spec."""
    rerun: bool = False
    """As in the spec."""

    @staticmethod
    def of(
        job: FineTuneJob,
        *,
        namespace: str,
        uid: str,
        stage: Stage = Stage.TRAIN,
        attempt: int = 1,
        micro_batch_size: int | None = None,
        model_revision: str | None = None,
        coordinator: str | None = None,
    ) -> "RunFile":
        """The run file of one attempt of `job`.

        Args:
            job: What to do.
            namespace: Of `job`.
            uid: Of `job`.
            stage: See the field.
            attempt: See the field.
            micro_batch_size: Replaces the spec's, once GPU memory ran out.
            model_revision: Replaces the spec's, once `prepare` has found which commit that is.
            coordinator: See the field.
        """
        trains = stage is Stage.TRAIN
        spec = job.spec
        smaller = {"micro_batch_size": micro_batch_size or spec.training.micro_batch_size}
        run = RunFile(
            name=job.metadata.name,
            namespace=namespace,
            uid=uid,
            stage=stage,
            attempt=attempt,
            processes=max(1, spec.resources.gpus) if trains else 1,
            nodes=spec.resources.nodes if trains else 1,
            training_nodes=spec.resources.nodes,
            gpus=spec.resources.gpus,
            model=spec.model.model_copy(update={"revision": model_revision or spec.model.revision}),
            dataset=spec.dataset,
            task=spec.task,
            method=spec.method,
            training=spec.training.model_copy(update=smaller),
            evaluation=spec.evaluation,
            extensions=spec.extensions,
            debug=spec.debug,
            storage=spec.storage,
            output=spec.output,
            rerun=spec.rerun,
        )
        return run.model_copy(update={"gpu_memory": spec.resources.gpu_memory, "coordinator": coordinator})

    @property
    def world(self) -> int:
        """Worker processes on all nodes."""
        return self.processes * self.nodes

    @property
    def training_gpus(self) -> int:
        """GPUs of all pods that train together."""
        return self.gpus * self.training_nodes

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a run file; raises pydantic.ValidationError that names the field."""
        return cls.model_validate_json(text, context=LOCAL)

    def to_json(self) -> str:
        """Render for the annotation or the file; the same job always gives the same bytes."""
        return self.model_dump_json(by_alias=True, exclude_none=True)
