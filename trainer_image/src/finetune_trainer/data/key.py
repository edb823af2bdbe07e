"""What decides the rows on disk, as one hash: a folder of shards with the same key need not be written again."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.options import Options
from finetune_trainer.data.shards import VERSION
from finetune_trainer.data.source import Source

PACKAGES = ("jinja2", "tokenizers", "transformers")
"""Whose versions may change how a row is rendered or tokenised."""


def shard_key(source: Source, options: Options, model: Path, training: str = "") -> str:
    """The sha256 of data, tokenizer, task, options and versions.

    `model` is the folder with the tokenizer's files. `training` is the key of the training rows for those held out:
    they have the same labels.
    """
    parts: dict[str, object] = {
        "version": VERSION,
        "data": source.sha256,
        "files": [file.name for file in source.files],
        "tokenizer": _digests(model),
        "options": options.dataset.model_dump(mode="json", exclude={"train", "evaluation"}),
        "maxLength": options.max_length,
        "trains": options.trains,
        "packages": {package: version(package) for package in PACKAGES},
    }
    if options.task.type is not TaskType.CAUSAL_LM:
        parts |= {"task": options.task.model_dump(mode="json"), "training": training}
    if options.task.type is TaskType.TOKEN_CLASSIFICATION:
        parts["words"] = "as one text"  # once they were tokenised each by itself
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digests(model: Path) -> dict[str, str]:
    """Every file beside the weights: the tokenizer, its template, and what chooses the tokenizer's class."""
    files = [file for file in sorted(model.iterdir()) if file.is_file() and not file.name.startswith(".")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.suffix != ".safetensors"}
