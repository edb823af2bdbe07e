"""SourceTarget: `{"source": "...", "target": "..."}`; or a prompt and its completion, both as texts."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.formats.format import Fields, Format, Roles, filled_text
from finetune_trainer.data.rows import SourceTarget


def read(row: Fields, _roles: Roles) -> SourceTarget:
    """No chat template is used."""
    return SourceTarget(filled_text(row["source"], "source"), filled_text(row["target"], "target"))


def read_prompt(row: Fields, _roles: Roles) -> SourceTarget:
    """The prompt is the source, the completion the target."""
    return SourceTarget(filled_text(row["prompt"], "prompt"), filled_text(row["completion"], "completion"))


SOURCE_TARGET = Format(DataFormat.SOURCE_TARGET, ("source", "target"), read)
PROMPT_TARGET = Format(DataFormat.PROMPT_COMPLETION, ("prompt", "completion"), read_prompt)
