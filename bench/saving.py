"""How long training stands still for a checkpoint: this trainer, and the Trainer's own save, in turn in one loop.

    python -m bench.saving FOLDER LENGTH REPEATS STEPS      after bench.prepare; prints one line of JSON

One process, one model, one loop. A segment is some steps, each with a save before it: none, the Trainer's own, or ours.
The standstill is what the loop waits for the save. What the writer takes from the step beside it shows in the step.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback

from bench.contenders import ours
from bench.machine import Load

SIDES = ("none", "trainer", "ours")
TIMES = ("standstill", "step")


class Turns(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Saves before each step, by the side whose turn it is, and takes the times."""

    def __init__(self, trainer: Any, repeats: int, steps: int) -> None:
        self._trainer = trainer
        self._steps = steps
        self._last = 1 + repeats * len(SIDES) * steps
        self._start = 0.0
        self._side = ""
        self.segments: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Save. The first step warms up and does not count."""
        taken = state.global_step - 1
        self._side = SIDES[taken // self._steps % len(SIDES)] if taken >= 0 else ""
        if self._side and taken % self._steps == 0:
            self._trainer.saver.finish()  # nothing of the side before
            self.segments[self._side].append({"standstill": [], "step": []})
        begun = time.perf_counter()
        if self._side == "trainer":
            Trainer._save_checkpoint(self._trainer, self._trainer.model, None)  # noqa: SLF001
        elif self._side == "ours":
            self._trainer._save_checkpoint(self._trainer.model, None)  # noqa: SLF001
        self._start = time.perf_counter()
        self._note("standstill", self._start - begun)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step is done."""
        self._note("step", time.perf_counter() - self._start)
        control.should_training_stop = state.global_step >= self._last

    def _note(self, what: str, seconds: float) -> None:
        if self._side:
            self.segments[self._side][-1][what].append(seconds)


def measure(folder: Path, length: int, repeats: int, steps: int) -> dict[str, Any]:
    """Median seconds of each segment's standstills and steps, by side."""
    trainer = ours(folder, length, "BFloat16", checkpointing=False)
    trainer.remove_callback(PrinterCallback)
    turns = Turns(trainer, repeats, steps)
    trainer.add_callback(turns)
    before = Load.now(os.getpid())
    trainer.train()
    found: dict[str, Any] = {"others_cores": round(Load.now(os.getpid()).others_since(before), 2)}
    for side, segments in turns.segments.items():
        found[side] = {what: [round(statistics.median(s[what]), 5) for s in segments] for what in TIMES}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))))
