"""Tokenized: `{"input_ids": [...], "labels": [...]}`; without `labels` every token is trained."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.formats.format import Fields, Format, Roles, list_of
from finetune_trainer.data.rows import Tokens
from finetune_trainer.data.tokens import IGNORED

_LARGEST = 2**31 - 1


def read(row: Fields, _roles: Roles) -> Tokens:
    """A label is the token's own id, or -100; labels are not shifted."""
    ids = _integers(row["input_ids"], "input_ids")
    bad = next((token for token in ids if not 0 <= token <= _LARGEST), None)
    if bad is not None:
        raise RowError(f"input_ids has {bad}, which is no token", Kind.CONTENT)
    mask = row.get("attention_mask")
    if mask is not None and 0 in _integers(mask, "attention_mask"):
        raise RowError("is padded (its attention_mask has zeros); leave the pads out", Kind.CONTENT)
    if row.get("labels") is None:
        return Tokens(ids, [True] * len(ids))
    labels = _integers(row["labels"], "labels")
    if len(labels) != len(ids):
        raise RowError(f"has {len(labels)} labels for {len(ids)} tokens", Kind.CONTENT)
    for index, (token, mark) in enumerate(zip(ids, labels, strict=True)):
        if mark not in (token, IGNORED):
            raise RowError(f"labels[{index}] is {mark}; it must be the token itself, {token}, or {IGNORED}")
    return Tokens(ids, [mark != IGNORED for mark in labels])


def _integers(value: object, name: str) -> list[int]:
    numbers = list_of(value, name)
    wrong = next((number for number in numbers if type(number) is not int), None)
    if wrong is not None or None in numbers:
        raise RowError(f"{name} has {wrong!r:.20}, which is no integer", Kind.CONTENT)
    return numbers


TOKENIZED = Format(DataFormat.TOKENIZED, ("input_ids",), read)
