"""Which files of a model are taken: weights as safetensors, configuration, tokenizer. Never pickle."""

import json
from fnmatch import fnmatch
from pathlib import Path

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.storage.store import Entry

_SAFE = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)
_UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.h5", "*.msgpack")


def model_files(uri: str, listing: list[Entry]) -> list[Entry]:
    """Return the files to download: those at the prefix itself, for folders hold copies in other formats.

    Raises:
        RunError: ModelNotFound or UnsafeModel.
    """
    here = [entry for entry in listing if "/" not in entry.path]
    weights = [entry.path for entry in here if entry.path.endswith(".safetensors")]
    unsafe = [entry.path for entry in here if _any(entry.path, _UNSAFE)]
    if unsafe and not weights:
        raise RunError(
            Reason.UNSAFE_MODEL,
            f"{uri} has its weights only as {', '.join(unsafe[:3])}, and no *.safetensors",
            "Load it where you trust it, save it with save_pretrained(), and upload that folder.",
        )
    missing = [what for what, found in (("config.json", _has_config(here)), ("*.safetensors", weights)) if not found]
    if missing:
        found = ", ".join(entry.path for entry in here[:5]) or "nothing"
        message = f"{uri} has no {' and no '.join(missing)}; it has: {found}"
        raise RunError(Reason.MODEL_NOT_FOUND, message, "Correct spec.model.uri: the prefix that holds config.json.")
    twice = any(name.startswith("model") for name in weights)  # consolidated.safetensors repeats model-*.safetensors
    return [e for e in here if _any(e.path, _SAFE) and not (twice and e.path.startswith("consolidated"))]


def check_shards(uri: str, folder: Path) -> None:
    """Check that every shard that an index names is there.

    Raises:
        RunError: ModelNotFound.
    """
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise RunError(Reason.MODEL_NOT_FOUND, f"{uri}/{index.name} is no index of safetensors") from error
        lost = sorted(name for name in shards if not (folder / str(name)).is_file())
        if lost:
            message = f"{uri} lacks {lost[0]}, which {index.name} names ({len(lost)} of {len(shards)} shards)"
            raise RunError(Reason.MODEL_NOT_FOUND, message, "Upload the whole model.")


def _has_config(entries: list[Entry]) -> bool:
    return any(entry.path == "config.json" for entry in entries)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
