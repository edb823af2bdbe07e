"""The operator's pod as its kubelet sees it; the last of these files, so that it has worked for a while."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HOME = "finetune-system"
LONG_ENOUGH_SECONDS = 220  # a watch without a byte for 180 s counts as dead


def _container(cluster: Any) -> tuple[str, str]:
    """The pod's uid, and since when its container runs."""
    pods = cluster.get("pods", namespace=HOME)["items"]
    (pod,) = (pod for pod in pods if "deletionTimestamp" not in pod["metadata"])
    (status,) = pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], status["state"].get("running", {}).get("startedAt", "")


def test_no_liveness_probe_fails(installed: Any) -> None:
    """Not even when nothing happens for longer than a watch may be silent; the container stays the same."""
    uid, since = _container(installed)
    began = datetime.fromisoformat(since)

    def old() -> bool:
        return (datetime.now(UTC) - began).total_seconds() > LONG_ENOUGH_SECONDS

    installed.wait_for("the operator to be old enough", old, timeout=LONG_ENOUGH_SECONDS + 30)
    events = installed.kubectl("-n", HOME, "get", "events", f"--field-selector=involvedObject.uid={uid}", "-ojson")
    said = [event["message"] for event in json.loads(events)["items"] if event["reason"] == "Unhealthy"]
    assert not [message for message in said if message.startswith("Liveness probe failed: HTTP")]
    assert _container(installed) == (uid, since)
