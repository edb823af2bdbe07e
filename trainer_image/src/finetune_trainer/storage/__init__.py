"""Storage behind one small interface: s3://, hf://, pvc:// and file:// URIs.

    store = open_store("s3://bucket/prefix", run.storage)
    store.upload(Path("adapter_model.safetensors"), "adapter_model.safetensors")

`fetch` brings models and files here; `finetune_trainer.publish` writes results.
"""

from finetune_trainer.storage.store import Entry, ObjectMissingError, Store, open_store

__all__ = ["Entry", "ObjectMissingError", "Store", "open_store"]
