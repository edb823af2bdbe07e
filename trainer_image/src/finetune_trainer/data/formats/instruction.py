"""Instruction, as Alpaca has it: `{"instruction": "...", "input": "...", "output": "..."}`, and maybe `system`."""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.formats.chat import conversation
from finetune_trainer.data.formats.format import Fields, Format, Roles, optional_text, text_of
from finetune_trainer.data.rows import Conversation, Message


def read(row: Fields, _roles: Roles) -> Conversation:
    """One user message, the input below the instruction with a blank line between; the output is the answer."""
    instruction, given = text_of(row["instruction"], "instruction"), optional_text(row, "input")
    system = optional_text(row, "system")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": f"{instruction}\n\n{given}" if given else instruction})
    messages.append({"role": "assistant", "content": text_of(row["output"], "output")})
    return conversation(messages, None)


INSTRUCTION = Format(DataFormat.INSTRUCTION, ("instruction", "output"), read)
