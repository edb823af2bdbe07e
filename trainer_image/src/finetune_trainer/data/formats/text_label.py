"""TextLabel: `{"text": "...", "label": "..."}`, and maybe a second text, `text_pair`."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.formats.format import Fields, Format, Roles, filled_text, label_of
from finetune_trainer.data.rows import LabelledText


def read(row: Fields, _roles: Roles) -> LabelledText:
    """A second text that is missing or null is none; one that is empty is a mistake."""
    pair = row.get("text_pair")
    return LabelledText(
        filled_text(row["text"], "text"),
        None if pair is None else filled_text(pair, "text_pair"),
        label_of(row["label"], "label"),
    )


TEXT_LABEL = Format(DataFormat.TEXT_LABEL, ("text", "label"), read)
