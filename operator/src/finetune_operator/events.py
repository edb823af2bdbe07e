"""Writes Events. An object has one Event for each reason, with a count and the last message, however often it repeats.

Who wants to know what each attempt said finds it in `status.attempts`. A job that fails again and again must not fill
etcd, nor the page that `kubectl describe` prints.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from finetune_api import names
from finetune_operator import report
from finetune_operator.cluster import Cluster, Key
from finetune_operator.report import Note

_MESSAGE_LIMIT = 1024  # the API server refuses longer ones


class Recorder:
    """Records Notes about FineTuneJobs."""

    def __init__(self, cluster: Cluster, instance: str) -> None:
        self._cluster, self._instance = cluster, instance
        self._last: dict[Key, datetime] = {}

    async def record(self, key: Key, resource: dict[str, Any], notes: Iterable[Note], now: datetime) -> None:
        """Write the notes in order.

        An Event's time has whole seconds and kubectl sorts by it, so two Events about one object never share one.
        """
        for note in notes:
            time = max(now, self._last[key] + timedelta(seconds=1)) if key in self._last else now
            self._last[key] = time
            event = self._event(resource, note, report.rfc3339(time))
            await self._cluster.record(event["metadata"]["namespace"], event["metadata"]["name"], event)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._last.pop(key, None)

    def _event(self, resource: dict[str, Any], note: Note, time: str) -> dict[str, Any]:
        metadata = resource["metadata"]
        message = report.clip(note.message, _MESSAGE_LIMIT)
        digest = hashlib.sha256(f"{metadata['uid']}/{note.reason}".encode()).hexdigest()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{digest[:16]}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": note.type,
            "reason": note.reason,
            "message": message,
            "count": 1,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "source": {"component": names.MANAGED_BY},
            "reportingComponent": names.MANAGED_BY,
            "reportingInstance": self._instance,
        }
