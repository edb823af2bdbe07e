"""What a row says once its format is read: a conversation, a plain text, tokens, or what another task learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""`role` and `content`, and whatever else the chat template may want: tool_calls, reasoning_content, name ..."""
Tools = Sequence[dict[str, Any]] | None
"""JSON schemas of the tools that the model may call."""


@dataclass(frozen=True)
class Conversation:
    """A chat, and which of its turns are there to be learned."""

    messages: tuple[Message, ...]
    trained: tuple[int, ...]
    """Indices of the assistant messages that `trainOn: Assistant` trains; at least one."""
    muted: tuple[int, ...] = ()
    """Indices of the assistant messages with weight 0, which nothing trains."""
    tools: Tools = None


@dataclass(frozen=True)
class Text:
    """A text that is trained as a whole, and an end token after it."""

    text: str


@dataclass(frozen=True)
class Tokens:
    """A row that somebody else has tokenised."""

    input_ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class LabelledText:
    """A text, or two, and its label."""

    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class TaggedWords:
    """Words, each with a label."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class SourceTarget:
    """A text, and the text that is to be made of it."""

    source: str
    target: str


@dataclass(frozen=True)
class Question:
    """A question, a text that answers it, and where in it: at least one answer."""

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    """The first character of each answer in the context."""


Example = Conversation | Text | Tokens | LabelledText | TaggedWords | SourceTarget | Question
