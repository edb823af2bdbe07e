"""What must be true after any fault, read from the API server's own objects and its audit log."""

import re
from collections import Counter
from typing import Any

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.jobs import get, job, wait_for

_TIMES = ("Time", "Seconds", "countedUntil")
"""How the names of fields end that hold times."""


def namespace(plane: ControlPlane, name: str) -> None:
    """Make a namespace."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def apply_jobs(plane: ControlPlane, where: str, jobs: list[str], **spec: Any) -> None:
    """Create FineTuneJobs of these names."""
    made = [job(name, **spec) for name in jobs]
    for each in made:
        each["metadata"]["namespace"] = where
    plane.apply(*made)


def jobs_of(plane: ControlPlane, where: str) -> dict[str, dict[str, Any]]:
    """The FineTuneJobs of a namespace by name."""
    return {item["metadata"]["name"]: item for item in get(plane, names.PLURAL, namespace=where)["items"]}


def ended(resource: dict[str, Any]) -> bool:
    """Whether the verdict fell, and the books of every attempt are closed: nothing more is written."""
    status = resource.get("status", {})
    fell = any(found["type"] == "Succeeded" and found["status"] != "Unknown" for found in status.get("conditions", []))
    return fell and all(attempt.get("account") == "Ended" for attempt in status.get("attempts", []))


def all_ended(plane: ControlPlane, where: str, *, timeout: float = 180) -> dict[str, dict[str, Any]]:
    """Wait for the end of every FineTuneJob of a namespace; returns them."""

    def look() -> dict[str, dict[str, Any]] | None:
        found = jobs_of(plane, where)
        return found if all(map(ended, found.values())) else None

    result: dict[str, dict[str, Any]] = wait_for(f"all jobs of {where} to end", look, timeout=timeout)
    return result


def likeness(resource: dict[str, Any]) -> Any:
    """A FineTuneJob's status without what differs from run to run: times, the Jobs' names, the scheduler's words."""
    jobs = [re.escape(attempt["jobName"]) for attempt in resource["status"]["attempts"]]
    pattern = re.compile("|".join([*jobs, r"(?<=Unschedulable: ).*"]))

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if not key.endswith(_TIMES)}
        if isinstance(value, list):
            return [strip(inner) for inner in value]
        return pattern.sub("*", value) if isinstance(value, str) else value

    return strip(resource["status"])


def created(plane: ControlPlane, where: str) -> Counter[tuple[str, str, str]]:
    """How often a Job was created, by FineTuneJob, stage and attempt: from the audit log, so that no Job can hide."""
    found: Counter[tuple[str, str, str]] = Counter()
    for entry in plane.audit():
        asked = entry.get("objectRef", {})
        if (entry["verb"], asked.get("resource"), asked.get("namespace")) != ("create", "jobs", where):
            continue
        if entry["responseStatus"]["code"] == 201:
            labels = entry["requestObject"]["metadata"].get("labels", {})
            if names.LABEL_JOB_NAME not in labels:
                continue  # somebody else's
            found[labels[names.LABEL_JOB_NAME], labels[names.LABEL_STAGE], labels[names.LABEL_ATTEMPT]] += 1
    return found


def kept(plane: ControlPlane, where: str) -> Counter[tuple[str, str, str]]:
    """The Jobs that there are, as `created`: an API server that is killed does not log what it did last."""
    labels = (found["metadata"].get("labels", {}) for found in get(plane, "jobs", namespace=where)["items"])
    return Counter((of[names.LABEL_JOB_NAME], of[names.LABEL_STAGE], of[names.LABEL_ATTEMPT]) for of in labels)


def once_each(jobs: list[str], attempts: tuple[tuple[str, str], ...] = (("prepare", "1"), ("train", "1"))) -> Any:
    """What `created` must say of jobs that took these attempts."""
    return Counter({(name, *attempt): 1 for name in jobs for attempt in attempts})


def verdicts(plane: ControlPlane, where: str) -> dict[str, list[str]]:
    """What was written as each FineTuneJob's verdict, in order, repeats left out: from the audit log."""
    found: dict[str, list[str]] = {}
    for entry in plane.audit():
        asked = entry.get("objectRef", {})
        if (asked.get("resource"), asked.get("namespace")) != (names.PLURAL, where):
            continue
        if asked.get("subresource") != "status" or entry["responseStatus"]["code"] != 200:
            continue
        for condition in entry["requestObject"].get("status", {}).get("conditions", []):
            said = found.setdefault(asked["name"], [])
            if condition["type"] == "Succeeded" and said[-1:] != [condition["status"]]:
                said.append(condition["status"])
    return found


def assert_verdicts_fell_once(plane: ControlPlane, where: str, ends: dict[str, str]) -> None:
    """Each job's verdict is that one, and was never taken back.

    Who is cut off before each status of a short job writes the verdict first.
    """
    said = verdicts(plane, where)
    for name, end in ends.items():
        assert said[name] in ([end], ["Unknown", end]), name


def events_of(plane: ControlPlane, where: str) -> dict[str, Counter[str]]:
    """How often each reason was recorded, by FineTuneJob."""
    found: dict[str, Counter[str]] = {}
    for event in get(plane, "events", namespace=where)["items"]:
        if event["involvedObject"]["kind"] == names.KIND:
            counted = found.setdefault(event["involvedObject"]["name"], Counter())
            counted[event["reason"]] += event.get("count", 1)
    return found


def refused_statuses(plane: ControlPlane, where: str) -> int:
    """How many status writes the API server refused because the object had changed since it was read."""
    asked = (entry for entry in plane.audit() if entry.get("objectRef", {}).get("namespace") == where)
    return sum(
        entry["objectRef"].get("subresource") == "status" and entry["responseStatus"]["code"] == 409 for entry in asked
    )
