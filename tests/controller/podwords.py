"""What pods look like when they start and end, and the words of trainers; for the World and its tests."""

import json
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from finetune_api.progress import Progress
from finetune_operator.progress import Key, Poller

EXIT_CODES = {
    "Prepared": 0,
    "Published": 0,
    "AlreadyPublished": 0,
    "TookPart": 0,
    "InvalidDataset": 65,
    "ModelNotFound": 66,
    "StorageUnavailable": 69,
    "InternalError": 70,
    "Preempted": 75,
    "OutOfGPUMemory": 80,
    "Diverged": 81,
    "PeerLost": 82,
    "VerificationFailed": 83,
    "QualityGateFailed": 85,
}
"""From the table of docs and design, written down a second time on purpose."""

FOLLOWS = ("", "PeerLost", "TookPart", "Preempted")
"""What is no trainer's own word."""
INDEX = "batch.kubernetes.io/job-completion-index"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine waits for something")


def termination_message(reason: str, chosen: int | None = None) -> str:
    """What the trainer writes; `chosen` is the micro-batch that `prepare` takes."""
    said: dict[str, Any] = {"reason": reason, "message": f"it was {reason}", "hint": "do this", "step": 7}
    if reason in ("Published", "AlreadyPublished"):
        said["artifact"] = {"uri": "s3://adapters/bot", "manifestSha256": "ab" * 32, "bytes": 1234, "files": 5}
    if reason == "Prepared":
        said["dataset"] = {"sha256": "cd" * 32, "rows": 9, "evaluationRows": 0, "tokens": 90, "trainedTokens": 45}
        said |= {"estimatedMemoryBytes": 10**9} | ({"microBatchSize": chosen} if chosen else {})
    return json.dumps(said)


def stamp(time: datetime) -> str:
    """As the API server writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def index_of(pod: dict[str, Any]) -> int:
    """The pod's number in an Indexed Job."""
    return int(pod["metadata"]["labels"].get(INDEX, "0"))


def finish(pod: dict[str, Any], code: int, message: str = "", reason: str = "", *, at: datetime | None = None) -> None:
    """The trainer's container ends."""
    (before,) = pod["status"]["containerStatuses"]
    ended = {"exitCode": code, "message": message, "reason": reason or ("Error" if code else "Completed")}
    began = before["state"].get("running", {}).get("startedAt") or "2026-11-23T12:00:00Z"
    ended |= {"startedAt": began, "finishedAt": stamp(at) if at else began}
    pod["status"]["phase"] = "Failed" if code else "Succeeded"
    pod["status"]["containerStatuses"] = [container({"terminated": ended})]
    pod["status"].pop("podIP", None)


def exit_code(pod: dict[str, Any]) -> int | None:
    """The trainer's exit code, once there is one."""
    for container in pod["status"].get("containerStatuses", []):
        if "terminated" in container["state"]:
            return int(container["state"]["terminated"]["exitCode"])
    return None


def apply(old: Any, patch: Any) -> Any:
    """RFC 7386, by its own pseudocode."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply(result.get(name), value)
    return result


def container(state: dict[str, Any]) -> dict[str, Any]:
    """The status of the trainer's."""
    return {"name": "trainer", "state": state}


def deleted(job: dict[str, Any]) -> bool:
    """Whether it is on its way out."""
    return "deletionTimestamp" in job["metadata"]


def word(pod: dict[str, Any]) -> str:
    """The reason that its trainer gave, or nothing."""
    (container,) = pod["status"].get("containerStatuses", [{}])
    message = container.get("state", {}).get("terminated", {}).get("message")
    return str(json.loads(message)["reason"]) if message else ""


def gang_first(pod: dict[str, Any]) -> bool:
    """Whether it is the one that tells the progress, and runs."""
    return pod["status"]["phase"] == "Running" and index_of(pod) == 0


class Ears(Poller):
    """A Poller whose trainers answer when the test says so, and are silent otherwise."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(3, lambda _: None)
        self._clock = clock
        self._said: dict[str, tuple[Progress, datetime]] = {}

    def hear(self, job_name: str, said: dict[str, Any]) -> None:
        """The trainer of that Job answers."""
        progress = Progress.model_validate({"updated_at": self._clock().timestamp(), **said})
        self._said[job_name] = progress, self._clock()

    def forget(self) -> None:
        """Of a process that ended nothing is left."""
        self._said.clear()

    def follow(self, key: Key, job_name: str, ip: str | None) -> None:  # noqa: ARG002
        """As the real one: what does not run is forgotten."""
        if ip is None:
            self.forget()

    def last(self, key: Key, job_name: str, ip: str | None) -> Progress | None:  # noqa: ARG002
        """See Poller."""
        return self._said[job_name][0] if ip and job_name in self._said else None

    def in_vain(self, key: Key, job_name: str, ip: str | None) -> float | None:  # noqa: ARG002
        """See Poller."""
        return None

    def silence(self, key: Key, job_name: str, ip: str | None, *, spoke: bool = False) -> float | None:  # noqa: ARG002
        """See Poller."""
        return (self._clock() - self._said[job_name][1]).total_seconds() if ip and job_name in self._said else None
