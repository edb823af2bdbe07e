"""Prompt tuning (https://arxiv.org/abs/2104.08691): learned embeddings before the row."""

from peft import PromptTuningConfig
from peft.tuners.prompt_tuning import PromptTuningInit

from finetune_api.v1alpha1 import Method
from finetune_trainer.methods.virtual_tokens import DEFAULT


def prompt_tuning_config(method: Method) -> PromptTuningConfig:
    """The configuration. Random tokens of the vocabulary are a better start than random numbers (section 3.2)."""
    return PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=method.virtual_tokens or DEFAULT,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )
