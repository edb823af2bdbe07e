"""Find out in the first second of a run, not at its end, that its result cannot be written; clean up after others."""

from collections.abc import Callable

from finetune_trainer.errors import RunError
from finetune_trainer.storage import Store


def check_writable(store: Store, uid: str) -> None:
    """Write and delete a small object below the job's own prefix.

    Raises:
        RunError: BucketNotFound, StorageDenied or StorageUnavailable.
    """
    probe = f".finetune/{uid}/.probe"
    store.write(probe, b"")
    store.delete(probe)


def abort_leftovers(store: Store, uid: str, say: Callable[[str], None]) -> None:
    """Abort uploads of this job that a killed attempt left half done: nobody sees them, and somebody pays for them.

    They are those below the job's own folder, and of files right at the prefix: what lies deeper may be another job's.
    Not every user may list them, so a refusal is told and ends nothing.
    """
    try:
        aborted = store.abort_unfinished(lambda path: path.startswith(f".finetune/{uid}/") or "/" not in path)
    except RunError as error:
        say(f"Uploads that an earlier attempt left half done were not looked for: {error.message}.")
        return
    if aborted:
        say(f"Aborted {aborted} uploads that an earlier attempt left half done.")
