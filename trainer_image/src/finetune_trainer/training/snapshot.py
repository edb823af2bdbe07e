"""What a checkpoint of an adapter holds, copied in memory at one step, and written as the Trainer and peft write it.

The bytes are those of the Trainer's own checkpoint. Left out are two files that nobody reads and storage never gets.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from finetune_trainer.methods.adapter import WEIGHTS


@dataclass(frozen=True)
class Snapshot:
    """One step of a run, but for the random states. Training on does not change it."""

    model: Any
    """The PeftModel, to be asked for the names of its parts only."""
    weights: dict[str, torch.Tensor]
    """Of the model by name; frozen ones are not copied."""
    config: PeftConfig
    optimizer: Any
    scheduler: Any
    scaler: Any
    """None where gradients are not scaled."""
    state: TrainerState

    @classmethod
    def of(cls, trainer: Any) -> "Snapshot":
        """Copy what `trainer` would save now. All of it lies in the main memory, wherever it is trained."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # bitsandbytes' paged tensors are read by the CPU, which waits for no kernel
        config = copy.copy(trainer.model.peft_config["default"])  # not its sets: a copy of one has another order
        config.inference_mode = True
        scaler = getattr(trainer.accelerator, "scaler", None)
        return cls(
            trainer.model,
            _weights(trainer.model),
            config,
            frozen(trainer.optimizer.state_dict()),
            frozen(trainer.lr_scheduler.state_dict()),
            frozen(scaler.state_dict()) if scaler else None,
            _state(trainer),
        )

    def write(self, folder: Path) -> None:
        """Write the files into a folder that exists."""
        adapter = get_peft_model_state_dict(self.model, state_dict=self.weights)
        save_file(adapter, folder / WEIGHTS, metadata={"format": "pt"})
        self.config.save_pretrained(folder)
        torch.save(self.optimizer, folder / OPTIMIZER_NAME)
        torch.save(self.scheduler, folder / SCHEDULER_NAME)
        if self.scaler is not None:
            torch.save(self.scaler, folder / SCALER_NAME)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))


def frozen(tree: Any) -> Any:
    """A state dict with containers and tensors of its own."""
    match tree:
        case torch.Tensor():
            return tree.detach().to("cpu", copy=True)
        case dict():
            return {key: frozen(value) for key, value in tree.items()}
        case list():
            return [frozen(value) for value in tree]
        case tuple():
            return tuple(frozen(value) for value in tree)
        case _:
            return tree


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = list(model.named_parameters(remove_duplicate=False))
    weights = {name: frozen(p).contiguous() for name, p in named if p.requires_grad}
    # peft adds an embedding below an adapter. Quantized weights it does not, and bitsandbytes replaces them at times.
    weights |= {name: p.detach() for name, p in named if not p.requires_grad and p.is_floating_point()}
    return weights | {name: frozen(buffer) for name, buffer in model.named_buffers(remove_duplicate=False)}


def _state(trainer: Any) -> TrainerState:
    """The Trainer's state as it writes it; entries of the log never change, there are only more of them."""
    state = copy.copy(trainer.state)
    state.log_history = list(state.log_history)
    control = trainer.control
    state.stateful_callbacks = {**state.stateful_callbacks, type(control).__name__: control.state()}
    return state
