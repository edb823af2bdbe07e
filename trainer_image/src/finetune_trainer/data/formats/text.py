"""Text: `{"text": "..."}`, for continued pre-training. The whole text is trained, and the end token after it."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.formats.format import Fields, Format, Roles, text_of
from finetune_trainer.data.rows import Text


def read(row: Fields, _roles: Roles) -> Text:
    """No chat template is used."""
    text = text_of(row["text"], "text")
    if not text:
        raise RowError("text is empty", Kind.CONTENT)
    return Text(text)


TEXT = Format(DataFormat.TEXT, ("text",), read)
