"""FineTuneJob v1alpha1: the only source of the CRD, of the job file's checks and of the reference page.

Every attribute docstring becomes the field's description in `kubectl explain`. Numbers are bounded, durations are
integers that say their unit, and there are no floats: decimals are strings with a pattern.

data        the base model and the rows
method      how the model is tuned
training    the run, and its evaluation
place       where it runs, where its result goes, when to give up
job         the spec as a whole, and what of it never changes
"""

from finetune_api.v1alpha1.data import Dataset, DataSource, Model
from finetune_api.v1alpha1.job import IMMUTABLE_FIELDS, IMMUTABLE_MESSAGE, FineTuneJob, ObjectMeta, Spec
from finetune_api.v1alpha1.method import Method, MethodType, Quantization
from finetune_api.v1alpha1.place import Deadlines, Output, Resources, Storage, Toleration
from finetune_api.v1alpha1.training import Checkpoints, Divergence, Evaluation, Precision, Scheduler, Training

__all__ = [
    "IMMUTABLE_FIELDS",
    "IMMUTABLE_MESSAGE",
    "Checkpoints",
    "DataSource",
    "Dataset",
    "Deadlines",
    "Divergence",
    "Evaluation",
    "FineTuneJob",
    "Method",
    "MethodType",
    "Model",
    "ObjectMeta",
    "Output",
    "Precision",
    "Quantization",
    "Resources",
    "Scheduler",
    "Spec",
    "Storage",
    "Toleration",
    "Training",
]
