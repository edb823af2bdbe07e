"""A case of the table in cases.py, and the text of its job file."""

from dataclasses import dataclass
from textwrap import dedent

BASE = {
    "metadata": "name: case",
    "model": "uri: s3://models/tiny",
    "dataset": "train: {uri: s3://datasets/train.jsonl}",
    "output": "uri: s3://adapters/case",
}


@dataclass(frozen=True)
class Case:
    """One job file and what must be said of it."""

    sentence: str
    text: str
    field: str = ""
    """For a refused case: the field that both judges must name; empty where the file as a whole is refused."""


def job(extra: str = "", **parts: str) -> str:
    """A job file: `extra` below spec, `parts` in place of the smallest job's own."""
    body = {**BASE, **parts}
    metadata = body.pop("metadata")
    lines = ["apiVersion: finetune.dev/v1alpha1", "kind: FineTuneJob", f"metadata: {{{metadata}}}", "spec:"]
    lines += [f"  {name}: {{{text}}}" for name, text in body.items()]
    lines += [f"  {line}" for line in dedent(extra).strip().splitlines()]
    return "\n".join(lines) + "\n"
