"""How long a row of CausalLM may be, for models that look positions up in a table and break behind its end."""

import json
from pathlib import Path

from transformers import AutoConfig

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Method, TaskType
from finetune_api.v1alpha1.method import PROMPT_TYPES

TABLES = frozenset(
    {"biogpt", "codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "openai-gpt", "opt"}
)  # of transformers' decoders, by model_type; rotary embeddings, ALiBi and state spaces compute any position
"""Models whose forward raises IndexError for a longer row."""


def row_limit(run: RunFile, model: Path) -> int:
    """Tokens that a row may have: `training.maxLength`, or less where the model in the folder has no more positions.

    Packed rows begin at position 0 each. Virtual tokens take the first positions.
    """
    wanted = run.training.max_length
    if run.task.type is not TaskType.CAUSAL_LM or run.extensions.model:
        return wanted
    if json.loads((model / "config.json").read_bytes()).get("model_type") not in TABLES:
        return wanted
    config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    return min(wanted, int(config.max_position_embeddings) - _virtual(run.method))


def _virtual(method: Method) -> int:
    if method.type not in PROMPT_TYPES:
        return 0
    from finetune_trainer.methods.virtual_tokens import DEFAULT  # noqa: PLC0415 - peft only where it is needed

    return method.virtual_tokens or DEFAULT
