"""The trained numbers themselves, beside a checkpoint. For p-tuning peft saves only what its network makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

STATE = "trainable.safetensors"


class WholeState(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Saves every trained parameter with a checkpoint, and puts it back after the Trainer has loaded one."""

    def __init__(self, model: Any) -> None:
        self._trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Go on where a checkpoint left off."""
        if state.global_step:
            self.restore(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def freeze(self, _state: Any) -> Callable[[Path], None]:
        """What is to be written beside the Trainer's checkpoint."""
        tensors = {name: parameter.detach().clone().contiguous() for name, parameter in self._trained.items()}
        return lambda folder: save_file(tensors, folder / STATE)

    def restore(self, checkpoint: Path) -> None:
        """Read what `freeze` had written."""
        for name, saved in load_file(checkpoint / STATE).items():
            self._trained[name].data.copy_(saved)

    def finish(self) -> None:
        """Nothing is left to do at the end."""
