"""A job that is deleted and applied again finds what it has published, and trains nothing."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from finetune_api.outcome import Artifact, DatasetReport, Outcome, Reason
from finetune_trainer.publish.manifest import MANIFEST, BrokenFolderError, read_digests
from finetune_trainer.storage import ObjectMissingError, Store


def find_published(store: Store, content: str, say: Callable[[str], None]) -> Outcome | None:
    """The result at the output prefix, if it was made from this very content and every file of it reads back right.

    Args:
        store: The output prefix.
        content: See `content_hash`.
        say: Takes a sentence on why what is there does not count.
    """
    try:
        data = store.read(MANIFEST)
        record, digests = json.loads(data), read_digests(data)
    except (ObjectMissingError, BrokenFolderError):
        return None
    if record.get("contentHash") != content or record.get("mergeRefused"):
        return None
    for path, digest in digests.items():
        if not _is(store, path, digest):
            say(f"{store.uri} has a result of the same content, but {path} is not what its manifest says")
            return None
    size = sum(int(file["size"]) for file in record["files"].values())
    artifact = Artifact(uri=store.uri, manifest_sha256=hashlib.sha256(data).hexdigest(), bytes=size, files=len(digests))
    try:
        return _outcome(record, artifact)
    except (ValidationError, KeyError):
        say(f"{store.uri} has a result of the same content, but its manifest is not one of this version")
        return None


def _is(store: Store, path: str, digest: str) -> bool:
    try:
        return store.sha256(path) == digest
    except ObjectMissingError:
        return False


def _outcome(record: dict[str, Any], artifact: Artifact) -> Outcome:
    job, report = record["job"], {field.alias for field in DatasetReport.model_fields.values()}
    return Outcome(
        reason=Reason.ALREADY_PUBLISHED,
        message=f"nothing was trained: {artifact.uri} has the result that FineTuneJob {job['namespace']}/{job['name']} "
        f"(uid {job['uid']}) published from the same model, data and settings; all {artifact.files} files of it were "
        "read back and compared",
        hint="to train it again all the same, set spec.rerun",
        step=record["publishedStep"],
        artifact=artifact,
        dataset=DatasetReport.model_validate({k: v for k, v in record["dataset"].items() if k in report}),
        loss_before=record["lossBefore"],
        loss_after=record["lossAfter"],
        loss_merged=record["lossMerged"],
        metrics_before=record["metricsBefore"] or {},
        metrics_after=record["metricsAfter"] or {},
    )
