"""FineTuneJobs for tests on the cluster: how to write one, and how to read what became of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

NAMESPACE = "team"
Json = dict[str, Any]


def manifest(name: str, endpoint: str, **spec: Any) -> Json:
    """A small QLoRA job on the tiny model; `spec` replaces whole sub-trees."""
    small = {
        "model": {"uri": "s3://models/tiny"},
        "dataset": {"train": {"uri": "s3://datasets/train.jsonl"}, "evaluation": {"uri": "s3://datasets/eval.jsonl"}},
        "method": {"type": "QLoRA", "rank": 4},
        "training": {"maxSteps": 12, "batchSize": 4, "microBatchSize": 4, "learningRate": "5e-3"},
        "resources": {"gpus": 0, "cpu": "250m", "memory": "2Gi", "workStorage": "5Gi"},
        "storage": {"secretName": "s3-credentials", "endpoint": endpoint},
        "output": {"uri": f"s3://adapters/{name}"},
        "retries": 0,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {**small, **spec},
    }


def condition(job: Json, kind: str) -> Json:
    """One condition of the job, empty where it is not there yet."""
    conditions = job.get("status", {}).get("conditions", [])
    found: Json = next((c for c in conditions if c["type"] == kind), {})
    return found


def ended(cluster: Any, name: str) -> Callable[[], Json | None]:
    """A check that answers the job once its verdict has fallen."""

    def check() -> Json | None:
        job: Json = cluster.get("ftj", name, namespace=NAMESPACE)
        return job if condition(job, "Succeeded").get("status") in ("True", "False") else None

    return check


def reached(cluster: Any, name: str, *reasons: str) -> Callable[[], Json | None]:
    """A check that answers the job once its Succeeded condition has one of these reasons; fails once it never will."""

    def check() -> Json | None:
        job: Json = cluster.get("ftj", name, namespace=NAMESPACE)
        now = condition(job, "Succeeded")
        if now.get("reason") in reasons:
            return job
        if now.get("status") in ("True", "False"):
            pytest.fail(f"{name} ended with {now['reason']} and was never seen {reasons}: {now['message']}")
        return None

    return check


def children(cluster: Any, kind: str, uid: str) -> list[Json]:
    """Jobs or Pods that were made for the FineTuneJob with this uid."""
    answer = cluster.kubectl("-n", NAMESPACE, "get", kind, "-l", f"finetune.dev/uid={uid}", "-o", "json")
    items: list[Json] = json.loads(answer)["items"]
    return items


def creations(cluster: Any, uid: str) -> list[Json]:
    """Audit entries of successful Job creations for the FineTuneJob with this uid."""
    return [
        entry
        for entry in cluster.audit()
        if entry["verb"] == "create"
        and entry.get("objectRef", {}).get("resource") == "jobs"
        and entry.get("objectRef", {}).get("namespace") == NAMESPACE
        and entry.get("responseStatus", {}).get("code") == 201
        and f'"finetune.dev/uid": "{uid}"' in json.dumps(entry.get("requestObject"))
    ]
