"""Find out in the first second of a run, not at its end, that its result cannot be written."""

from finetune_trainer.storage import Store


def check_writable(store: Store, uid: str) -> None:
    """Write and delete a small object below the job's own prefix.

    Raises:
        RunError: BucketNotFound, StorageDenied or StorageUnavailable.
    """
    probe = f".finetune/{uid}/.probe"
    store.write(probe, b"")
    store.delete(probe)
