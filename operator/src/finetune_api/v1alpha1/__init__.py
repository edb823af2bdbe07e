"""FineTuneJob v1alpha1: the only source of the CRD, of the job file's checks and of the reference page.

Every attribute docstring becomes the field's description in `kubectl explain`. Numbers are bounded, durations are
integers that say their unit, and there are no floats: decimals are strings with a pattern.

data        the base model and the rows
task        what the model learns to do
task_rules  what of the rest does not go with a task
method      how the model is tuned
optimizer   what turns gradients into steps, and the schedule of the learning rate
parallelism how several processes share the work
training    the run
evaluation  when the held-out rows are looked at, and what follows from it
extensions  what the user's own image brings in
combinations  what of the above does not go together
output      where the result goes, and what else is made of it
place       where it runs, when to give up
job         the spec as a whole
immutable   what of it never changes
"""

from finetune_api.v1alpha1.data import (
    Adapter,
    Columns,
    DataFormat,
    Dataset,
    DataSource,
    InvalidRowPolicy,
    InvalidRows,
    Model,
    Overlong,
    Role,
    TrainOn,
    source_uris,
)
from finetune_api.v1alpha1.evaluation import LOSS, EarlyStopping, Evaluation, Gate
from finetune_api.v1alpha1.extensions import Debug, Debugpy, Extensions, Tracker, TrackerType
from finetune_api.v1alpha1.immutable import TRANSITIONS, Transition, refused_changes
from finetune_api.v1alpha1.job import FineTuneJob, ObjectMeta, Spec
from finetune_api.v1alpha1.method import (
    Initialization,
    Method,
    MethodType,
    Quantization,
    QuantizationType,
    StorageType,
)
from finetune_api.v1alpha1.optimizer import Optimizer, OptimizerType, ParameterGroup, Scheduler, SchedulerOptions
from finetune_api.v1alpha1.output import VLLM, Merge, Output, WeightType
from finetune_api.v1alpha1.parallelism import Parallelism, Strategy
from finetune_api.v1alpha1.place import Deadlines, PrepareResources, Resources, Storage, Toleration
from finetune_api.v1alpha1.task import MAX_LABELS, Task, TaskType
from finetune_api.v1alpha1.training import Checkpoints, Divergence, Precision, Training

__all__ = [
    "LOSS",
    "MAX_LABELS",
    "TRANSITIONS",
    "VLLM",
    "Adapter",
    "Checkpoints",
    "Columns",
    "DataFormat",
    "DataSource",
    "Dataset",
    "Deadlines",
    "Debug",
    "Debugpy",
    "Divergence",
    "EarlyStopping",
    "Evaluation",
    "Extensions",
    "FineTuneJob",
    "Gate",
    "InvalidRowPolicy",
    "InvalidRows",
    "Initialization",
    "Merge",
    "Method",
    "MethodType",
    "Model",
    "ObjectMeta",
    "Optimizer",
    "OptimizerType",
    "Output",
    "Overlong",
    "Parallelism",
    "ParameterGroup",
    "Precision",
    "PrepareResources",
    "Quantization",
    "QuantizationType",
    "Resources",
    "Role",
    "Scheduler",
    "SchedulerOptions",
    "Spec",
    "Storage",
    "StorageType",
    "Strategy",
    "Task",
    "TaskType",
    "Toleration",
    "Tracker",
    "TrackerType",
    "TrainOn",
    "Training",
    "Transition",
    "WeightType",
    "refused_changes",
    "source_uris",
]
