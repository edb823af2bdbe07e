"""Load the tokenizer from a local folder."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
"""What transformers raises for a folder that it cannot load. CUDA's out-of-memory is a RuntimeError and passes."""


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer, with its chat template where it has one.

    Raises:
        RunError: InvalidConfiguration.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except BROKEN as error:
        raise unloadable("tokenizer", error) from error
    if not tokenizer.is_fast:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            "the model's tokenizer has no tokenizer.json, so it is not known which characters a token stands for",
            "Save it with transformers as a fast tokenizer and upload it again.",
        )
    return tokenizer


def length_limit(folder: Path, tokenizer: Any, wanted: int) -> int:
    """How many tokens a row may have: `wanted`, or less where the model has no more positions."""
    config = json.loads((folder / "config.json").read_bytes())
    # Embeddings of positions start behind the pad's own in models that are made as RoBERTa is; their tokenizer knows.
    places = config.get("max_position_embeddings")
    return min(wanted, int(tokenizer.model_max_length), places if isinstance(places, int) else wanted)


def unloadable(what: str, error: Exception) -> RunError:
    """The user's folder is at fault; `what` of it cannot be loaded."""
    text = " ".join(str(error).split())[:500]
    return RunError(
        Reason.INVALID_CONFIGURATION,
        f"the {what} cannot be loaded: {type(error).__name__}: {text}",
        "It must be a text model that transformers knows without remote code.",
    )
