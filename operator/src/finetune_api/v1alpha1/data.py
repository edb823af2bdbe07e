"""The base model and the rows to learn from."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import Object, ObjectName, SourceURI


class Adapter(Object):
    """A published adapter."""

    uri: SourceURI
    """Prefix of adapter_config.json and adapter_model.safetensors: s3://, hf:// or pvc://, as for the model."""


class Model(Object):
    """The base model."""

    uri: SourceURI
    """Where the model's safetensors, config and tokenizer are: s3://bucket/prefix, hf://owner/name or pvc://claim/path."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]+$", max_length=128)] | None = None
    """Commit, tag or branch of an hf:// model. A full commit makes the run repeatable."""
    secret_name: ObjectName | None = None
    """Secret whose key HF_TOKEN opens a gated hf:// model."""
    adapter: Adapter | None = None
    """Train this adapter on instead of a fresh one. Its own rank, alpha, modules and so on hold; method must not
    contradict them."""


class DataSource(Object):
    """One file of rows."""

    uri: SourceURI
    """A JSONL file, one row a line: s3://bucket/file.jsonl, hf://datasets/owner/name/file.jsonl or pvc://claim/file.jsonl."""


class Dataset(Object):
    """The rows to learn from. A row holds `messages` (a chat) or `prompt` and `completion`."""

    train: DataSource
    """Rows to train on."""
    evaluation: DataSource | None = None
    """Held-out rows; their loss is measured before and after training."""
