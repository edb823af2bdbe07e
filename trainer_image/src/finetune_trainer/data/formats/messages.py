"""Messages: `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}`.

Beside them `tools`; in a message also `tool_calls`, `reasoning_content`, `weight`, and whatever the template wants.
"""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.formats.chat import conversation, messages_of, tools_of
from finetune_trainer.data.formats.format import Fields, Format, Roles
from finetune_trainer.data.rows import Conversation


def read(row: Fields, roles: Roles) -> Conversation:
    """Every assistant message is trained, but for those of weight 0."""
    return conversation(messages_of(row["messages"], "messages", roles), tools_of(row))


MESSAGES = Format(DataFormat.MESSAGES, ("messages",), read)
