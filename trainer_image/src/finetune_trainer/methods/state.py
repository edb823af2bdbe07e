"""The trained numbers themselves, beside a checkpoint. For p-tuning peft saves only what its network makes."""

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

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Write beside the Trainer's checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file(
                {name: parameter.detach().contiguous() for name, parameter in self._trained.items()}, folder / STATE
            )

    def restore(self, checkpoint: Path) -> None:
        """Read what `on_save` wrote."""
        for name, saved in load_file(checkpoint / STATE).items():
            self._trained[name].data.copy_(saved)

    def finish(self) -> None:
        """Nothing is left to do at the end."""
