"""Early stopping, and the weights of the best evaluation.

A checkpoint carries the weights of the best evaluation so far in a folder of its own, unless they are its own: whatever
retention deletes and uploads overtake, the newest checkpoint alone is all that a run needs to go on.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune_trainer.training.goal import Goal, Standing

FOLDER = "best/weights"
"""In a checkpoint. Not one level higher: there the Trainer would take it for a second adapter."""


class BestModel(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Has a checkpoint saved at every evaluation that is the best so far, and keeps its weights."""

    def __init__(self, goal: Goal, folder: Path) -> None:
        self._goal = goal
        self.folder = folder
        """Holds the weights of the best evaluation, as a checkpoint does."""

    def on_evaluate(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the checkpoint; the Trainer saves after it has evaluated."""
        if self._goal.standing(state.log_history).best_step == state.global_step:
            control.should_save = True

    def freeze(self, state: Any) -> Callable[[Path], None]:
        """Take the weights of the best checkpoint, or hand them on to a later one."""
        return partial(self._keep, state.global_step, self._goal.standing(state.log_history).best_step)

    def keep(self, checkpoint: Path, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """As `freeze`, for a checkpoint that is there already."""
        self._keep(step, self._goal.standing(history).best_step, checkpoint)

    def _keep(self, step: int, best: int, checkpoint: Path) -> None:
        if best == step:
            _link_weights(checkpoint, self.folder)
        elif best:
            _link_weights(self.folder, checkpoint / FOLDER)

    def restore(self, checkpoint: Path, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Take over what a restored checkpoint carries."""
        best = self._goal.standing(history).best_step
        if best:
            _link_weights(checkpoint if best == step else checkpoint / FOLDER, self.folder)


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Ends training when evaluations stop getting better, with a checkpoint."""

    def __init__(self, goal: Goal, patience: int, say: Callable[[str], None]) -> None:
        self._goal = goal
        self._patience = patience
        self._say = say

    def on_evaluate(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Judge; all processes have the same scores."""
        if self.over(state.log_history):
            self._say(self.sentence(self._goal.standing(state.log_history)))
            control.should_training_stop = True
            control.should_save = True

    def over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a run with this log has ended."""
        return self._goal.standing(history).stale >= self._patience

    def sentence(self, standing: Standing) -> str:
        """Why it has."""
        return (
            f"training ends early: {standing.stale} evaluations in a row brought no better {self._goal.name} "
            f"(the best is {standing.best:.4f}, of step {standing.best_step})"
        )


def _link_weights(source: Path, target: Path) -> None:
    """The weights of a checkpoint under another name, not a second time; what the target held before goes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in source.glob("*.safetensors*"):
        try:
            os.link(file, target / file.name)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, target / file.name)
