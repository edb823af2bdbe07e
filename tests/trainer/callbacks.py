"""Puts a test's own callback into the Trainer of a run."""

from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from finetune_trainer.training import fit as fitting


def add_to_trainers(monkeypatch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    """Every Trainer that a run makes from now on has it, after the run's own."""
    real = fitting._trainer

    def with_callback(*arguments: object) -> object:
        trainer = real(*arguments)  # type: ignore[arg-type]
        trainer.add_callback(callback)
        return trainer

    monkeypatch.setattr(fitting, "_trainer", with_callback)


class Steps(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Notes what each step finds and does, by the names of the trained parameters."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        """Before each step, and at the end."""
        self.gradients: list[dict[str, torch.Tensor]] = []
        """As the optimizer gets them."""
        self.rates: list[dict[str, float]] = []
        self.decays: dict[str, float] = {}

    def on_pre_optimizer_step(self, *_: object, optimizer: Any, model: Any, **__: object) -> None:
        """Before the optimizer moves anything."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        names = {id(parameter): name for name, parameter in trained.items()}
        groups = [(names[id(p)], group) for group in optimizer.param_groups for p in group["params"]]
        assert len(groups) == len(trained), "each parameter is in one group"
        self.weights.append({name: p.detach().clone() for name, p in trained.items()})
        self.gradients.append({name: p.grad.clone() for name, p in trained.items()})
        self.rates.append({name: group["lr"] for name, group in groups})
        self.decays = {name: group["weight_decay"] for name, group in groups}

    def on_train_end(self, *_: object, model: Any, **__: object) -> None:
        """After the last step."""
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
