"""TokensTags: `{"tokens": ["...", ...], "tags": ["...", ...]}`: words, and one label for each."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.formats.format import Fields, Format, Roles, filled_text, label_of, list_of
from finetune_trainer.data.rows import TaggedWords


def read(row: Fields, _roles: Roles) -> TaggedWords:
    """Both lists have the same length."""
    words = [filled_text(word, f"tokens[{index}]") for index, word in enumerate(list_of(row["tokens"], "tokens"))]
    tags = [label_of(tag, f"tags[{index}]") for index, tag in enumerate(list_of(row["tags"], "tags"))]
    if len(tags) != len(words):
        raise RowError(f"has {len(tags)} tags for {len(words)} tokens", Kind.CONTENT)
    return TaggedWords(words, tags)


TOKENS_TAGS = Format(DataFormat.TOKENS_TAGS, ("tokens", "tags"), read)
