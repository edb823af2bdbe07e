"""Prefix tuning (https://arxiv.org/abs/2101.00190): learned keys and values before the row, in every layer."""

from peft import PrefixTuningConfig

from finetune_api.v1alpha1 import Method
from finetune_trainer.methods.virtual_tokens import DEFAULT


def prefix_tuning_config(method: Method) -> PrefixTuningConfig:
    """The configuration."""
    return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=method.virtual_tokens or DEFAULT)
