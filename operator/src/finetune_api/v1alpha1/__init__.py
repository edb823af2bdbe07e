"""FineTuneJob v1alpha1: the only source of the CRD, of the job file's checks and of the reference page.

Every attribute docstring becomes the field's description in `kubectl explain`. Numbers are bounded, durations are
integers that say their unit, and there are no floats: decimals are strings with a pattern.

data        the base model and the rows
method      how the model is tuned
optimizer   what turns gradients into steps, and the schedule of the learning rate
parallelism how several processes share the work
training    the run, and its evaluation
combinations  what of the above does not go together
place       where it runs, where its result goes, when to give up
job         the spec as a whole, and what of it never changes
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
)
from finetune_api.v1alpha1.job import IMMUTABLE_FIELDS, IMMUTABLE_MESSAGE, FineTuneJob, ObjectMeta, Spec
from finetune_api.v1alpha1.method import (
    Initialization,
    Method,
    MethodType,
    Quantization,
    QuantizationType,
    StorageType,
)
from finetune_api.v1alpha1.optimizer import Optimizer, OptimizerType, Scheduler, SchedulerOptions
from finetune_api.v1alpha1.parallelism import Parallelism, Strategy
from finetune_api.v1alpha1.place import Deadlines, Output, PrepareResources, Resources, Storage, Toleration
from finetune_api.v1alpha1.training import Checkpoints, Divergence, Evaluation, Precision, Training

__all__ = [
    "IMMUTABLE_FIELDS",
    "IMMUTABLE_MESSAGE",
    "Adapter",
    "Checkpoints",
    "Columns",
    "DataFormat",
    "DataSource",
    "Dataset",
    "Deadlines",
    "Divergence",
    "Evaluation",
    "FineTuneJob",
    "InvalidRowPolicy",
    "InvalidRows",
    "Initialization",
    "Method",
    "MethodType",
    "Model",
    "ObjectMeta",
    "Optimizer",
    "OptimizerType",
    "Output",
    "Overlong",
    "Parallelism",
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
    "Toleration",
    "TrainOn",
    "Training",
]
