"""PromptCompletion: `{"prompt": "...", "completion": "..."}`, or a list of messages in both.

A tuned chat model is used through its chat template, so a plain prompt is trained through it too.
"""

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.containers.record import kind_of
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats.chat import conversation, messages_of, tools_of
from finetune_trainer.data.formats.format import Fields, Format, Roles
from finetune_trainer.data.rows import Conversation


def read(row: Fields, roles: Roles) -> Conversation:
    """Only the completion's assistant messages are trained."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        pair = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return conversation(pair, tools_of(row), 1)
    if isinstance(prompt, list) and isinstance(completion, list):
        context = messages_of(prompt, "prompt", roles)
        return conversation(context + messages_of(completion, "completion", roles), tools_of(row), len(context))
    raise RowError(
        f"prompt is {kind_of(prompt)} and completion is {kind_of(completion)}; both must be strings, or both lists of "
        "messages"
    )


PROMPT_COMPLETION = Format(DataFormat.PROMPT_COMPLETION, ("prompt", "completion"), read)
