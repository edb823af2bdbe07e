"""Messages, strictly: what all formats with conversations share."""

import json
from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1 import Role
from finetune_trainer.data.containers.record import kind_of
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.formats.format import Fields, Roles, list_of
from finetune_trainer.data.rows import Conversation, Message, Tools

ROLES: Roles = {role.value: role.value for role in Role}
WEIGHT = "weight"
"""Of an assistant message: 0 makes it context, 1 (as without it) trains it. Never shown to the chat template."""


def conversation(messages: Sequence[Message], tools: Tools, trained_from: int = 0) -> Conversation:
    """Tell the turns that are trained: assistant messages from `trained_from` on, but for those of weight 0.

    Raises:
        RowError: There is none.
    """
    assistant = [index for index, message in enumerate(messages) if message["role"] == Role.ASSISTANT]
    muted = tuple(index for index in assistant if messages[index].get(WEIGHT) == 0)
    if not any(index >= trained_from for index in assistant):
        raise RowError("has no assistant turn, so nothing of it would be trained", Kind.NO_ASSISTANT)
    trained = tuple(index for index in assistant if index >= trained_from and index not in muted)
    if not trained:
        raise RowError("trains nothing: every assistant message has weight 0", Kind.TRAINS_NOTHING)
    for message in messages:
        message.pop(WEIGHT, None)
    return Conversation(tuple(messages), trained, muted, tools)


def messages_of(value: object, name: str, roles: Roles) -> list[Message]:
    """Read a list of messages; `roles` are the user's own names."""
    known = {**ROLES, **roles}
    return [_message(item, f"{name}[{index}]", known) for index, item in enumerate(list_of(value, name))]


def role_of(value: object, name: str, known: Roles) -> str:
    """Our name of a role."""
    role = known.get(value) if isinstance(value, str) else None
    if role is None:
        said = json.dumps(value, ensure_ascii=False, default=str)[:60]
        raise RowError(f"{name}: role {said} is not one of {', '.join(known)}; dataset.roles can name it", Kind.ROLE)
    return role


def content_of(message: Fields, key: str, name: str) -> str:
    """The text of a message."""
    content = message.get(key)
    if not isinstance(content, str):
        found = kind_of(content) if key in message else "missing"
        raise RowError(f"{name}: {key} is {found}, not a string", Kind.CONTENT)
    return content


def tools_of(row: Fields) -> Tools:
    """The tools of a row: JSON schemas, or the JSON text of a list of them; none is fine."""
    if row.get("tools") in (None, "", []):
        return None
    tools = list_of(row["tools"], "tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise RowError(f"tools[{index}] is {kind_of(tool)}, not an object")
    return tools


def _message(value: object, name: str, roles: Roles) -> Message:
    if not isinstance(value, dict):
        raise RowError(f"{name} is {kind_of(value)}, not an object with role and content")
    role = role_of(value.get("role"), name, roles)
    message = {key: member for key, member in value.items() if member is not None}
    message["role"] = role
    if message.get("tool_calls"):
        if role != Role.ASSISTANT:
            raise RowError(f"{name}: only an assistant calls tools, not a {role}", Kind.ROLE)
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{name}.tool_calls")
        message.setdefault("content", "")  # a turn that only calls tools
    else:
        message.pop("tool_calls", None)
    message["content"] = content_of({**value, **message}, "content", name)
    _check_weight(message, name)
    return message


def _check_weight(message: Message, name: str) -> None:
    weight = message.get(WEIGHT, 0)
    if weight not in (0, 1) or isinstance(weight, bool):
        raise RowError(f"{name}: weight is {json.dumps(weight)[:20]}; it must be 0 or 1")
    if weight == 1 and message["role"] != Role.ASSISTANT:
        raise RowError(f"{name}: weight is 1, but only assistant messages are trained")


def _tool_calls(value: object, name: str) -> list[dict[str, Any]]:
    calls = []
    for index, call in enumerate(list_of(value, name)):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(f"{name}[{index}] is no call: it needs a function with a name and arguments")
        arguments = {"arguments": _arguments(function.get("arguments"), f"{name}[{index}]")}
        plain = {key: member for key, member in call.items() if member is not None}
        calls.append(plain | ({"function": function | arguments} if "function" in plain else arguments))
    return calls


def _arguments(value: object, name: str) -> dict[str, Any]:
    """Arguments as an object, as templates want them; APIs send JSON text, which would be quoted twice."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except (ValueError, RecursionError) as error:
            raise RowError(f"{name}: arguments are not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(f"{name}: arguments are {kind_of(value)}, not an object")
    return value
