"""Which parts of a conversation are trained: found by prefix difference of the model's own chat template.

For an assistant message i, render messages[:i] with the generation prompt, and messages[:i+1]. What the second adds to
the first is exactly what the model must write there. This needs no template markers and no list of known models;
it needs a template whose earlier text does not change when a message is added, and one that breaks this is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from finetune_api.v1alpha1 import Role, TrainOn
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.rows import Conversation, Message, Tools

Render = Callable[[Sequence[Message], Tools, bool], str]
"""Renders messages as text; the flag asks for the generation prompt at the end."""
Span = tuple[int, int]
"""Characters [start, end)."""


@dataclass(frozen=True)
class Chat:
    """One rendered conversation."""

    text: str
    spans: tuple[Span, ...]
    """What is trained, in order, without overlap."""
    whole: bool = False
    """The spans are the text but for what is muted, not turns of the assistant: their ends are no ends of turns."""


def renderer(tokenizer: Any, variables: Mapping[str, str] | None = None) -> Render:
    """The model's own chat template as a function; `variables` are the template's, their values as JSON or as text."""
    given = {name: _value(text) for name, text in (variables or {}).items()}

    def render(messages: Sequence[Message], tools: Tools, generation_prompt: bool) -> str:
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            continue_final_message=False,
            **given,
        )
        return str(text)

    return render


def _value(text: str) -> Any:
    """What a person means by it: false is no text that happens to be true."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def render_chat(row: Conversation, render: Render, train_on: TrainOn = TrainOn.ASSISTANT) -> Chat:
    """Render a row and find its trained spans.

    Raises:
        RowError: The template refuses the row, or the span of a turn cannot be told from prefixes.
    """
    try:
        text = render(row.messages, row.tools, False)
        text.encode()
        if train_on is TrainOn.ALL:
            muted = [_span(row, index, text, render) for index in row.muted]
            return Chat(text, _between(muted, len(text)), whole=True)
        return Chat(text, tuple(_span(row, index, text, render) for index in _turns(row, train_on)))
    except (jinja2.TemplateError, TypeError, IndexError, KeyError, ValueError, AttributeError) as error:
        # Templates refuse by raise_exception (a TemplateError), and trip over the unexpected in all the other ways.
        raise RowError(f"the model's chat template refuses this row: {error}", Kind.TEMPLATE) from None


def _turns(row: Conversation, train_on: TrainOn) -> tuple[int, ...]:
    """The assistant messages that are trained."""
    if train_on is TrainOn.ASSISTANT:
        return row.trained
    last = max(index for index, message in enumerate(row.messages) if message["role"] == Role.ASSISTANT)
    if last not in row.trained:
        raise RowError("trains nothing: its last assistant turn is context (weight 0)", Kind.TRAINS_NOTHING)
    return (last,)


def _span(row: Conversation, index: int, text: str, render: Render) -> Span:
    if index == 0:
        raise RowError("starts with an assistant turn, so there is nothing that it would answer", Kind.ROLE)
    messages = row.messages
    before = render(messages[:index], row.tools, True)
    after = text if index + 1 == len(messages) else render(messages[: index + 1], row.tools, False)
    turn = f"messages[{index}]"
    if not after.startswith(before):
        where = _first_difference(before, after)
        raise RowError(
            f"{turn}: the model's chat template writes the text before this turn differently once the turn is there "
            f"(...{before[where - 10 : where + 20]!r} became ...{after[where - 10 : where + 20]!r}), so what to train "
            "cannot be told",
            Kind.TEMPLATE,
        )
    if not text.startswith(after):
        raise RowError(
            f"{turn}: the model's chat template writes this turn differently once more messages follow, so no text "
            "fits both training and use; end the conversation with this turn, or set dataset.trainOn: LastAssistant",
            Kind.TEMPLATE,
        )
    return len(before), len(after)


def _between(muted: Sequence[Span], end: int) -> tuple[Span, ...]:
    """The whole text but for some spans of it."""
    starts = [0, *(stop for _, stop in muted)]
    stops = [*(start for start, _ in muted), end]
    return tuple((start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop)


def _first_difference(a: str, b: str) -> int:
    """Index of the first character in which two strings differ, at least 10 so that a slice before it is easy."""
    return max(10, next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))))
