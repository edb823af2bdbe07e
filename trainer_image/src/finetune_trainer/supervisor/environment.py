"""The environment of the worker: whatever it writes by itself goes below the scratch folder.

The root file system of the pod is read-only, and a run on a laptop shall leave nothing behind elsewhere.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import TrackerType, source_uris

_CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_HOME": "triton",
    "TRITON_CACHE_DIR": "triton/cache",
    "NUMBA_CACHE_DIR": "numba",
    "CUDA_CACHE_PATH": "cuda",
    "MPLCONFIGDIR": "matplotlib",
}
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def of_worker(run: RunFile, root: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Return the worker's environment and create the folders it names.

    Args:
        run: Says whether the model hub may be asked at all.
        root: The scratch folder.
        base: The environment of this process; its credentials are passed on.
    """
    cache, temporary, home = root / ".cache", root / "tmp", root / "home"
    environment = {name: value for name, value in base.items() if name not in _OF_A_RANK}
    environment |= {name: str(cache / folder) for name, folder in _CACHES.items()}
    environment |= {
        "XDG_CACHE_HOME": str(cache),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment |= _hub(run, base)
    environment |= _threads(run.processes, base)
    if not os.access(base.get("HOME", "/nonexistent"), os.W_OK):  # else keep it: ~/.aws may hold the credentials
        environment["HOME"] = str(home)
    for folder in (cache, temporary, Path(environment["HOME"])):
        folder.mkdir(parents=True, exist_ok=True)
    return environment


def _threads(processes: int, base: Mapping[str, str]) -> dict[str, str]:
    """Share the threads among the processes: OMP_NUM_THREADS where it is set, as in a pod, else one per CPU of ours.

    A single process without the variable is left to its libraries.
    """
    told = base.get("OMP_NUM_THREADS", "")
    if not told.isdigit() and processes == 1:
        return {}
    threads = max(1, (int(told) if told.isdigit() else len(os.sched_getaffinity(0))) // processes)
    return {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}  # the second one is the tokenizer's


def _reports_to_hub(run: RunFile) -> bool:
    """Whether a tracker of the run writes to the hub."""
    return any(tracker.type is TrackerType.TRACKIO and not tracker.uri for tracker in run.training.trackers)


def _hub(run: RunFile, base: Mapping[str, str]) -> dict[str, str]:
    """No call to a hub unless a URI says so; the login of this machine's user counts when one does."""
    sources = source_uris(run.model, run.dataset)
    if not any(uri.startswith("hf://") for uri in sources) and not _reports_to_hub(run):
        return {"HF_HUB_OFFLINE": "1"}
    login = Path(base.get("HF_HOME") or Path(base.get("HOME", "/")) / ".cache/huggingface") / "token"
    return {"HF_TOKEN_PATH": str(login)} if "HF_TOKEN_PATH" not in base and login.is_file() else {}
