"""P-tuning (https://arxiv.org/abs/2103.10385): embeddings before the row that a small network learns to make.

Only what the network makes is published; the network is needed to go on training (see `state.py`).
"""

from peft import PromptEncoderConfig

from finetune_api.v1alpha1 import Method
from finetune_trainer.methods.virtual_tokens import DEFAULT


def p_tuning_config(method: Method, hidden_size: int) -> PromptEncoderConfig:
    """The configuration; the network is as wide as the model."""
    return PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=method.virtual_tokens or DEFAULT,
        encoder_hidden_size=hidden_size,
    )
