"""The task of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.question_answering import QuestionAnswering
from finetune_trainer.tasks.seq2seq import Seq2SeqLM
from finetune_trainer.tasks.sequence_classification import SequenceClassification
from finetune_trainer.tasks.task import Task
from finetune_trainer.tasks.token_classification import TokenClassification
from finetune_trainer.tokenizer import BROKEN, unloadable


def task_of(kind: TaskType, labels: Sequence[str], tokenizer: Any, model: Path, smoothing: float = 0.0) -> Task:
    """The task with what it needs to know.

    Args:
        kind: Which one.
        labels: Of classification, by number.
        tokenizer: The model's.
        model: A folder with the model's config.json.
        smoothing: Of the labels of CausalLM, while training.

    Raises:
        RunError: InvalidConfiguration: the config cannot be read.
    """
    if kind is TaskType.CAUSAL_LM:
        return CausalLM(_pad_id(tokenizer), smoothing)
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except BROKEN as error:
        raise unloadable("model", error) from error
    own = getattr(config, "pad_token_id", None)
    pad = own if own is not None else _pad_id(tokenizer)
    segments = "token_type_ids" in tokenizer.model_input_names
    match kind:
        case TaskType.SEQUENCE_CLASSIFICATION:
            return SequenceClassification(pad, segments, labels)
        case TaskType.TOKEN_CLASSIFICATION:
            return TokenClassification(pad, segments, labels)
        case TaskType.SEQ2SEQ_LM:
            return Seq2SeqLM(pad)
        case _:
            return QuestionAnswering(pad, segments)


def _pad_id(tokenizer: Any) -> int:
    """Whatever id the tokenizer has for it."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return int(pad if pad is not None else end if end is not None else 0)
