"""transformers' Trainer whose checkpoints hold the same files and numbers whatever the strategy."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from finetune_trainer.fast.sharding import is_whole_model
from finetune_trainer.sharding.gathering import (
    gather_optimizer,
    gather_scheduler,
    scatter_optimizer,
    scatter_scheduler,
    trained_state,
    whole_parameters,
)

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
"""As the Trainer calls them without DeepSpeed."""


class PortableTrainer(Trainer):  # type: ignore[misc]  # transformers publishes no types
    """Under DeepSpeed saves and loads what a lone process would; in every other case it is the Trainer."""

    def __init__(self, **arguments: Any) -> None:
        """Take a model that was shared out while it was read, too.

        transformers saves no optimizer for such a model, lest a share be taken for the whole. Here what is trained
        came after the sharing, and is whole.
        """
        settings = arguments["args"]
        settings.save_only_model = not is_whole_model(arguments["model"])
        super().__init__(**arguments)
        settings.save_only_model = False

    def create_optimizer(self, model: Any = None) -> Any:
        """Remember which parameters each group has, before DeepSpeed replaces them by its own."""
        optimizer = super().create_optimizer(model)
        if self.is_deepspeed_enabled and not hasattr(self, "_groups"):
            self._groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole adapter; all processes take part."""
        if is_whole_model(self.model) and not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
            return
        with whole_parameters(self.model):
            self._save(output_dir, trained_state(self.model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gather_optimizer(self.model_wrapped, self._groups)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(gather_scheduler(self.lr_scheduler, self._groups), Path(output_dir) / SCHEDULER)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Load our checkpoint in place of DeepSpeed's: the weights before they are shared out, the rest after."""
        if resume_from_checkpoint is None or not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        folder = Path(resume_from_checkpoint)
        state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        scatter_optimizer(self.model_wrapped, self._groups, state)
        scatter_scheduler(self.lr_scheduler, torch.load(folder / SCHEDULER, weights_only=True))
        return prepared
