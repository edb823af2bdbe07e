"""What a run does with its evaluations: resume after one, stop by them, and publish by the best."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune_trainer.training.best import BestModel, EarlyStopping
from finetune_trainer.training.gate import check_measured
from finetune_trainer.training.goal import Goal, evaluated, logged
from finetune_trainer.training.saving import Part
from finetune_trainer.training.schedule import evaluations
from finetune_trainer.training.scores import Scores
from finetune_trainer.training.session import Session

STATE = "trainer_state.json"


class Evaluate(Protocol):
    """Evaluates the model that is being trained."""

    def __call__(self, whose: str, weights: Path | None = None) -> Scores | None:
        """Load the weights of a checkpoint where one is given; `whose` is for the log. None without held-out rows."""


class HeldOut:
    """The held-out rows of one run, as far as they decide something."""

    def __init__(self, session: Session) -> None:
        run, say = session.run, session.reporter.say
        self._session = session
        self._goal = Goal.of(run.evaluation)
        self._schedule = evaluations(run)
        self._resumed: tuple[Path, int] | None = None
        stopping = run.evaluation.early_stopping
        self._stopping = EarlyStopping(self._goal, stopping.patience, say) if stopping else None
        self._best = BestModel(self._goal, session.work.best) if run.evaluation.keep_best else None

    @property
    def callbacks(self) -> list[Any]:
        """For the Trainer."""
        return [callback for callback in (self._stopping, self._best) if callback]

    @property
    def parts(self) -> list[Part]:
        """For its checkpoints."""
        return [self._best] if self._best else []

    def check(self, before: Scores | None) -> None:
        """Look whether the first evaluation has measured what the others are judged by.

        Raises:
            RunError: InvalidConfiguration.
        """
        if before is not None:
            self._goal.value(before)
            check_measured(self._session.run.evaluation.gate, before)

    def resume(self, checkpoint: Path, evaluate: Evaluate) -> None:
        """Take over a restored checkpoint, and make up for the evaluation that a stop has cut short."""
        state = read_state(checkpoint)
        step, history = state["global_step"], state["log_history"]
        self._session.reporter.saved_step = step
        self._resumed = checkpoint, step
        if self._best and self._session.processes.first:
            self._best.restore(checkpoint, step, history)
        if not self._schedule.due(step, state["epoch"], state["max_steps"]) or evaluated(history, step):
            self._session.processes.barrier()
            return
        scores = evaluate(f"the model of step {step}", checkpoint)
        if scores is not None:
            history.append({**logged(scores), "epoch": state["epoch"], "step": step})
        if self._session.processes.first:
            (checkpoint / STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
            if self._best:
                self._best.keep(checkpoint, step, history)
        self._session.processes.barrier()

    def over(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this state is that of a run which has ended."""
        early = self._stopping is not None and self._stopping.over(state["log_history"])
        return early or state["global_step"] >= state["max_steps"]

    def settle(self, step: int, history: Sequence[Mapping[str, Any]], evaluate: Evaluate) -> tuple[Scores | None, int]:
        """Put the weights that are to be published into the model, and evaluate them.

        Args:
            step: How far the run came.
            history: The Trainer's log.
            evaluate: Of the model that was trained.

        Returns:
            The scores, and the step that they are of.
        """
        # A run that had ended before this session has not trained: its weights are still in the checkpoint only.
        ended_before = self._resumed[0] if self._resumed and self._resumed[1] == step else None
        last: Scores | None = None
        if self._best and not evaluated(history, step):
            last = evaluate("the last model", ended_before)
            history = [*history, {**(logged(last) if last else {}), "step": step}]
        best = self._goal.standing(history)
        if not self._best or best.best_step in (0, step):
            return last or evaluate("the trained model", ended_before), step
        self._session.reporter.say(
            f"the best {self._goal.name} is {best.best:.4f}, of step {best.best_step}: its weights are published"
        )
        return evaluate(f"the best model, of step {best.best_step}", self._best.folder), best.best_step


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The Trainer's own state, as it has saved it."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_bytes())
    return state
