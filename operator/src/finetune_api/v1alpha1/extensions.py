"""What the user's own image brings in: code by its entry points, trackers, a debugger. Nothing acts unless named."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DISTINCT, LIST_ATOMIC, LIST_SET, Object, ObjectName, Rule

Project = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]*$", min_length=1, max_length=128)]
EntryPoint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", min_length=1, max_length=64)]


class Extensions(Object):
    """Code of the trainer image, by the names of its Python entry points; what is not named is never loaded."""

    callbacks: Annotated[list[EntryPoint], DISTINCT, Field(max_length=16, json_schema_extra=LIST_SET)] = []
    """Entry points of the group finetune.callbacks: factories of a transformers.TrainerCallback."""
    metrics: Annotated[list[EntryPoint], DISTINCT, Field(max_length=16, json_schema_extra=LIST_SET)] = []
    """Entry points of the group finetune.metrics: functions that measure a model in each evaluation."""
    model: EntryPoint | None = None
    """Entry point of the group finetune.models: loads the base model in place of transformers."""


EXTENSION_RULES = (
    Rule(
        cel="!has(self.extensions.model) || (self.method.type != 'QLoRA' && !has(self.method.quantization))",
        holds=lambda s: s.extensions.model is None or s.method.base_quantization is None,
        message="extensions.model loads the base as it is, unquantized; set method.type: LoRA without quantization",
        field="extensions.model",
    ),
)
"""Of the spec as a whole."""


class TrackerType(StrEnum):
    """Where the numbers of a run can go beside metrics.jsonl."""

    TENSORBOARD = "TensorBoard"
    MLFLOW = "MLflow"
    WANDB = "WandB"
    TRACKIO = "Trackio"


def _is_of_wandb(project: str) -> bool:
    """W&B's own names of projects hold no slash; one parts them from the entity (a user or a team)."""
    return all(project.split("/")) and project.count("/") < 2


class Tracker(Object):
    """One place that the numbers of a run go to."""

    rules = (
        Rule(
            cel="self.type != 'TensorBoard' || (!has(self.uri) && !has(self.project) && !has(self.secretName))",
            holds=lambda t: t.type is not TrackerType.TENSORBOARD or not (t.uri or t.project or t.secret_name),
            message="type TensorBoard writes below output.uri and takes no uri, project or secretName; remove them",
            field="type",
        ),
        Rule(
            cel="self.type != 'MLflow' || has(self.uri)",
            holds=lambda t: t.type is not TrackerType.MLFLOW or t.uri is not None,
            message="type MLflow needs the uri of a tracking server: what it writes to the pod's disk is lost",
            field="uri",
        ),
        Rule(
            cel="self.type != 'WandB' || !has(self.project) || self.project.matches('^[^/]+(/[^/]+)?$')",
            holds=lambda t: t.type is not TrackerType.WANDB or t.project is None or _is_of_wandb(t.project),
            message="type WandB takes a project, or entity/project",
            field="project",
        ),
    )
    type: Annotated[TrackerType, Field(strict=False)]
    """TensorBoard (files in the bucket), MLflow, WandB, Trackio; the last three need their package in the image."""
    uri: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/.*)?$", max_length=512)] | None = None
    """Server; unset means the service's own, for WandB and Trackio."""
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]*$", min_length=1, max_length=128)] | None = (
        None
    )
    """Project, or MLflow's experiment; for WandB also entity/project. Unset means the tracker's own default."""
    secret_name: ObjectName | None = None
    """Secret whose keys become environment variables of the trainer, for instance WANDB_API_KEY."""


Trackers = Annotated[list[Tracker], Field(max_length=4, json_schema_extra=LIST_ATOMIC)]
TRACKER_RULE = Rule(
    cel="self.trackers.all(t, self.trackers.exists_one(u, u.type == t.type))",
    holds=lambda t: len({tracker.type for tracker in t.trackers}) == len(t.trackers),
    message="training.trackers names a type twice; remove one",
    field="trackers",
)
"""Of `training`."""


class Debugpy(Object):
    """A debugger's server in the first worker process."""

    port: Annotated[int, Field(ge=1024, le=65_535)] = 5678
    """Port on the pod's loopback only: reach it with kubectl port-forward."""
    wait: bool = True
    """Wait for a client before anything is loaded, however long it takes; false lets one attach later."""


class Debug(Object):
    """Looking into a run; the defaults do nothing."""

    debugpy: Debugpy | None = None
    """Start debugpy (https://github.com/microsoft/debugpy), which must be in the image; unset: not."""
