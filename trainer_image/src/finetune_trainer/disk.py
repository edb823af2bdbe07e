"""What goes wrong with the disk of the run itself, as a reason: full, read-only, broken.

A disk belongs to the world: another node has another one, so a full or broken disk is worth another attempt. One that
may not be written is the pod's own setting, and stays so.
"""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_HINT = "Raise spec.resources.workStorage, or use a node with a larger disk."
_WORDLESS = ("PytorchStreamWriter", "inline_container", "file write failed", "write failed")
"""torch does not say why it could not write."""
_NOTHING_FREE = 1 << 20


def is_of_disk(error: OSError) -> bool:
    """Tell an error of this machine's disk from one of a network or another machine."""
    return error.errno in (*_FULL, errno.EROFS, errno.EIO)


def explain_disk(error: BaseException, folder: Path) -> RunError | None:
    """The reason where the disk of `folder` is at fault; None where there is no evidence for that."""
    for link in _chain(error):
        text = " ".join(str(link).split())[:500]
        code = link.errno if isinstance(link, OSError) else None
        if code in _FULL or "os error 28" in text or (_is_wordless(text) and _free(folder) < _NOTHING_FREE):
            message = f"the disk of {folder} is full ({_free(folder) / 1e6:.0f} MB free): {text}"
            return RunError(Reason.STORAGE_UNAVAILABLE, message, _HINT)
        if code == errno.EIO:
            message = f"the disk of {folder} fails: {text}"
            return RunError(Reason.STORAGE_UNAVAILABLE, message, "Another node may have a better one.")
        if code in _FORBIDDEN and _is_below(link, folder):
            message = f"{folder} cannot be written: {text}"
            return RunError(Reason.STORAGE_DENIED, message, "Mount a volume there that this user may write.")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_wordless(text: str) -> bool:
    return any(words in text for words in _WORDLESS)


def _is_below(error: BaseException, folder: Path) -> bool:
    name = getattr(error, "filename", None)
    return isinstance(name, str) and Path(name).is_relative_to(folder)


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
