"""Which parts of a conversation are trained: found by prefix difference of the model's own chat template.

For an assistant message i, render messages[:i] with the generation prompt, and messages[:i+1]. What the second adds to
the first is exactly what the model must write there. This needs no template markers and no list of known models;
it needs a template whose earlier text does not change when a message is added, and one that breaks this is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jinja2

from finetune_trainer.data.findings import RowError
from finetune_trainer.data.rows import Message, Row

Render = Callable[[Sequence[Message], bool], str]
"""Renders messages as text; the flag asks for the generation prompt at the end."""


@dataclass(frozen=True)
class Chat:
    """One rendered conversation."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges [start, end) of the assistant's turns that are trained, in order, without overlap."""


def render_chat(row: Row, render: Render) -> Chat:
    """Render a row and find its trained spans.

    Raises:
        RowError: The template refuses the row, or the span of a turn cannot be told from prefixes.
    """
    try:
        text = render(row.messages, False)
        spans = tuple(
            _span(row.messages, index, text, render)
            for index in range(row.trained_from, len(row.messages))
            if row.messages[index]["role"] == "assistant"
        )
    except (jinja2.TemplateError, TypeError, IndexError, KeyError, ValueError) as error:
        # Templates refuse by raise_exception (a TemplateError), and trip over the unexpected in all the other ways.
        raise RowError(f"the model's chat template refuses this row: {error}") from None
    return Chat(text, spans)


def _span(messages: Sequence[Message], index: int, text: str, render: Render) -> tuple[int, int]:
    if index == 0:
        raise RowError("starts with an assistant turn, so there is nothing that it would answer")
    before = render(messages[:index], True)
    after = render(messages[: index + 1], False)
    turn = f"messages[{index}]"
    if not after.startswith(before):
        where = _first_difference(before, after)
        raise RowError(
            f"{turn}: the model's chat template writes the text before this turn differently once the turn is there "
            f"(...{before[where - 10 : where + 20]!r} became ...{after[where - 10 : where + 20]!r}), so what to train "
            "cannot be told"
        )
    if not text.startswith(after):
        raise RowError(
            f"{turn}: the model's chat template writes this turn differently once more messages follow, so no text "
            "fits both training and use; end the conversation with this turn"
        )
    return len(before), len(after)


def _first_difference(a: str, b: str) -> int:
    """Index of the first character in which two strings differ, at least 10 so that a slice before it is easy."""
    return max(10, next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))))
