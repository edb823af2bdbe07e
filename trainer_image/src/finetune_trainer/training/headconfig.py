"""Publish the config of a model with a head beside its adapter, which has no place for the names of labels."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from finetune_trainer.tasks.forward import base_of
from finetune_trainer.training.inputs import Inputs


def save_head_config(model: Any, inputs: Inputs, folder: Path) -> None:
    """Write config.json, as transformers loads the base with it; how the base was quantized is for its user to say.

    A tokenizer without a pad gets the one that the model was trained with: whoever batches rows needs it.
    """
    config = deepcopy(base_of(model).config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    if inputs.tokenizer.pad_token_id is None and config.pad_token_id is not None:
        inputs.tokenizer.pad_token = inputs.tokenizer.convert_ids_to_tokens(config.pad_token_id)
