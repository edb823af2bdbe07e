"""One extension of each kind. Imports the trainer's libraries, and nothing of the trainer itself."""

import logging
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

log = logging.getLogger("finetune_trainer.example_extension")  # below finetune_trainer, INFO reaches the pod's log
IGNORED = -100


class StepTimes(TrainerCallback):
    """Logs how long each optimizer step takes."""

    def __init__(self) -> None:
        self._began = 0.0

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Read it."""
        if state.is_world_process_zero:
            log.info("step %d took %.3f s", state.global_step, time.monotonic() - self._began)


def token_accuracy(model: Any, rows: Any, device: torch.device, **_: Any) -> dict[str, float]:
    """Share of the trained tokens that the model finds most likely."""
    right = total = 0
    for row in rows:
        ids = torch.as_tensor(row.input_ids, dtype=torch.long, device=device)[None]
        labels = torch.as_tensor(row.labels, dtype=torch.long, device=device)[1:]
        guesses = model(input_ids=ids).logits[0, :-1].argmax(-1)
        trained = labels != IGNORED
        right += int((guesses[trained] == labels[trained]).sum())
        total += int(trained.sum())
    return {"accuracy": right / total}


def load_eager(folder: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The base model with attention that shows its weights."""
    log.info("loading the model with eager attention")
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", local_files_only=True
    ).to(device)
