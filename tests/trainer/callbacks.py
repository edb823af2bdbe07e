"""Puts a test's own callback into the Trainer of a run."""

import pytest
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
