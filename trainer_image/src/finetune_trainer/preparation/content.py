"""What decides a result, as one hash: with the same one in a manifest, training again would give nothing new."""

import hashlib
import json

from finetune_api.run import RunFile
from finetune_trainer.storage import open_store
from finetune_trainer.storage.choose import model_files
from finetune_trainer.storage.fetch import ADAPTER_FILES
from finetune_trainer.storage.store import Entry, Store

_SETTINGS = {"model", "dataset", "task", "method", "training", "evaluation", "extensions", "output"}


def content_hash(run: RunFile, base: list[str], keys: list[str]) -> str:
    """The sha256 of settings, base model and rows.

    Not in it: who asks and on what hardware, the micro-batch (the same mathematics), the revision of the model (its
    files are), and versions of code, for an upgrade shall not train all that is there again. Those that may change
    how a row is tokenized are in the keys.

    Args:
        run: The whole run.
        base: What `base_files` found.
        keys: Of the prepared rows of each source (see `data.key`): data, tokenizer, template and options.
    """
    settings = run.model_dump(mode="json", include=_SETTINGS, exclude_defaults=True)  # a new field changes no old hash
    settings["model"].pop("secret_name", None)
    settings["model"].pop("revision", None)
    settings.get("training", {}).pop("micro_batch_size", None)
    parts = {"settings": settings, "base": base, "keys": keys}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def base_files(run: RunFile) -> list[str]:
    """Name, size and version of each file of the base model, and of the adapter that is trained on.

    To be asked before they are downloaded: what changes meanwhile then differs from the hash, never the other way.

    Raises:
        RunError: ModelNotFound, or what the storage says.
    """
    store = open_store(run.model.uri, run.storage, run.model.revision)
    wanted = model_files(store.uri, store.list())
    found = [_named(store, entry) for entry in wanted]
    if run.model.adapter:
        adapter = open_store(run.model.adapter.uri, run.storage)
        found += [_named(adapter, entry) for entry in adapter.list() if entry.path in ADAPTER_FILES]
    return found


def _named(store: Store, entry: Entry) -> str:
    return f"{store.uri}/{entry.path} {entry.size} {entry.version}"
