"""What the model must have in common with the rows, asked of its shapes: no weight is read."""

from typing import Any

import torch

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.errors import RunError
from finetune_trainer.tasks.choose import task_of
from finetune_trainer.tasks.head import bones
from finetune_trainer.tokenizer import BROKEN, load_tokenizer, unloadable
from finetune_trainer.workdir import WorkDir


def check_model(run: RunFile, work: WorkDir, sources: list[Dataset]) -> None:
    """Refuse a model that transformers cannot build for the task, and rows with tokens that it does not have.

    Of a model that extensions.model loads only its own code can tell.

    Args:
        run: The whole run.
        work: Has the model's config and tokenizer.
        sources: Training rows first.

    Raises:
        RunError: InvalidConfiguration or InvalidDataset.
    """
    if run.extensions.model:
        return
    task = task_of(run.task.type, sources[0].facts.labels, load_tokenizer(work.model), work.model)
    try:
        model = bones(work.model, task, torch.float32)
    except BROKEN as error:
        raise unloadable("model", error) from error
    check_vocabulary(model, sources)


def check_vocabulary(model: Any, sources: list[Dataset]) -> None:
    """A token that the model does not have would end in a CUDA assertion that names nothing.

    Raises:
        RunError: InvalidDataset that names the first row, where the rows came as tokens; else InvalidConfiguration.
    """
    known = model.get_input_embeddings().num_embeddings
    for source in sources:
        largest = source.facts.largest_token
        if largest >= known and source.facts.format == DataFormat.TOKENIZED:
            row = next(number for number, row in enumerate(source.rows) if row.input_ids.max() >= known)
            raise RunError(
                Reason.INVALID_DATASET,
                f"{source.rows.place(row)} is the first row with a token that the model does not have: it knows "
                f"{known}, from 0 on, and the largest in the rows is {largest}",
                "Write the rows with the tokenizer that belongs to the model.",
            )
        if largest >= known:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"the tokenizer gives token {largest}, but the model knows {known} tokens only",
                "Upload the tokenizer that belongs to the model.",
            )
