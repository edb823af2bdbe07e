"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`.

Beside them `system` and `tools`.
"""

from finetune_api.v1alpha1 import DataFormat, Role
from finetune_trainer.data.containers.record import kind_of
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats.chat import ROLES, WEIGHT, content_of, conversation, role_of, tools_of
from finetune_trainer.data.formats.format import Fields, Format, Roles, list_of, optional_text
from finetune_trainer.data.rows import Conversation, Message

SPEAKERS: Roles = {
    **ROLES,
    "human": Role.USER.value,
    "gpt": Role.ASSISTANT.value,
    "observation": Role.TOOL.value,
}


def read(row: Fields, roles: Roles) -> Conversation:
    """Every turn of the assistant is trained, but for those of weight 0."""
    known = {**SPEAKERS, **roles}
    turns = list_of(row["conversations"], "conversations")
    messages = [_message(turn, f"conversations[{index}]", known) for index, turn in enumerate(turns)]
    system = optional_text(row, "system")
    return conversation([{"role": "system", "content": system}, *messages] if system else messages, tools_of(row))


def _message(turn: object, name: str, known: Roles) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"{name} is {kind_of(turn)}, not an object with from and value")
    if "role" in turn and "from" not in turn:
        raise RowError(
            f"{name} has `role`, not `from`; these are messages: set dataset.format: Messages and "
            "dataset.columns.messages: conversations"
        )
    message = {"role": role_of(turn.get("from"), name, known), "content": content_of(turn, "value", name)}
    return message | ({WEIGHT: 0} if turn.get(WEIGHT) == 0 else {})


SHARE_GPT = Format(DataFormat.SHARE_GPT, ("conversations",), read)
