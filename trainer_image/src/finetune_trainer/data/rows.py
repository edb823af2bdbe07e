"""What a row says once its format is read: a conversation, a plain text, or tokens."""

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


Example = Conversation | Text | Tokens
