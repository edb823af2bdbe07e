"""Rows of other tasks than CausalLM as a person reads them."""

from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.encoders.questions import NO_ANSWER
from finetune_trainer.data.tokens import IGNORED, TokenRow


def show_targets(row: TokenRow, labels: Sequence[str], tokenizer: Any, task: TaskType) -> str:
    """The tokens as text, and the label, the words' labels, the target, or the answer."""

    def text(ids: Any) -> str:
        return repr(tokenizer.decode([int(token) for token in ids], clean_up_tokenization_spaces=False))

    match task:
        case TaskType.SEQUENCE_CLASSIFICATION:
            learned = labels[int(row.labels[0])]
        case TaskType.TOKEN_CLASSIFICATION:
            tagged = [(token, tag) for token, tag in zip(row.input_ids, row.labels, strict=True) if tag != IGNORED]
            learned = " ".join(f"{text([token])}={labels[int(tag)]}" for token, tag in tagged)
        case TaskType.QUESTION_ANSWERING:
            first, last = (int(place) for place in row.labels)
            learned = text(row.input_ids[first : last + 1]) if last != NO_ANSWER else "no answer in this window"
        case _:
            learned = text(row.labels)
    return f"{text(row.input_ids)} -> {learned}"
