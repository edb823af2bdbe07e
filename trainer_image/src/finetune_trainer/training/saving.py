"""Saves checkpoints: copies of the state in memory first, the writing beside the training, the offer to PID 1 last.

    main thread   wait for the last write | snapshot, random states | train on ...
    writer                                                          | files, rename, outbox

At most one snapshot exists. Whoever leaves the loop waits for the writer, so that nothing is lost that was saved.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import MethodType, Strategy
from finetune_trainer.publish import Outbox, check_resumable
from finetune_trainer.sharding.strategy import strategy_of
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.snapshot import Snapshot
from finetune_trainer.training.stop import Stopped
from finetune_trainer.training.writer import Writer

log = logging.getLogger(__name__)

Finish = Callable[[Path], None]
_BESIDE = (MethodType.QLORA, MethodType.LORA, MethodType.ADALORA, MethodType.IA3)


class Part(Protocol):
    """Something that a checkpoint holds beside the Trainer's own files."""

    def freeze(self, state: Any) -> Finish:
        """Remember what it is at this step; what is returned is given the folder later, maybe in another thread."""


def written_beside(run: RunFile, processes: Processes) -> bool:
    """Whether this run's checkpoints are written beside the training.

    What is shared out is gathered by all processes, in the loop. Virtual tokens are made by a network when they are
    saved. A copy of a fully trained model would take as much memory as the model and its optimizer.
    """
    one_disk = processes.nodes == 1 and strategy_of(run) is Strategy.DDP
    return one_disk and run.method.type in _BESIDE


class Saver:
    """Saves the checkpoints of one run."""

    def __init__(
        self,
        outbox: Outbox,
        reporter: Reporter,
        processes: Processes,
        *,
        beside: bool,
        parts: Sequence[Part] = (),
        good: Callable[[], bool] = lambda: True,
    ) -> None:
        self._outbox = outbox
        self._reporter = reporter
        self._processes = processes
        self._beside = beside
        self._parts = parts
        self._good = good
        self._writer = Writer()
        self._saves = 0

    def save(self, trainer: Any, save_now: Callable[[], None]) -> None:
        """Save this step; all processes take part. `save_now` is the Trainer's own way, for when nothing goes beside.

        Raises:
            OSError: The disk takes nothing any more; of the checkpoint before this one, too.
        """
        state = trainer.state
        folder = Path(trainer.args.output_dir) / f"checkpoint-{state.global_step}"
        parts = [part.freeze(state) for part in self._parts] if self._processes.first else []
        good = self._good()
        if self._beside:
            self._save_beside(trainer, folder, parts, good=good)
        else:
            save_now()
            self._processes.barrier()  # every process writes its own random state into the folder
            if self._processes.nodes > 1:
                bring_together(folder, self._processes)
            if self._processes.first:
                self._complete(folder, parts, state.global_step, good=good)
        if not self._processes.first:
            self._reporter.saved_step = state.global_step

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, as far as that is known."""
        self._writer.check()

    def finish(self) -> None:
        """Wait until the last checkpoint is offered to PID 1."""
        self._writer.finish()

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Whatever ends the training inside waits for the last checkpoint; an error of its own goes before the disk's.

        A stop does not: one whose checkpoint is not on the disk has not gone well.
        """
        try:
            yield
        except Stopped:
            self.finish()
            raise
        except BaseException:
            try:
                self.finish()
            except Exception as error:
                log.error("The last checkpoint could not be saved.", exc_info=error)
            raise
        self.finish()

    def _save_beside(self, trainer: Any, folder: Path, parts: Sequence[Finish], *, good: bool) -> None:
        self._writer.finish()
        trainer.store_flos()
        self._saves += 1
        staging = folder.with_name(f".writing-{self._saves}")
        trainer._save_rng_state(str(staging))  # noqa: SLF001 - each process its own; a few kilobytes
        snapshot = Snapshot.of(trainer) if self._processes.first else None
        self._processes.barrier()
        if snapshot is None:
            return
        step, limit = trainer.state.global_step, trainer.args.save_total_limit

        def write() -> None:
            snapshot.write(staging)
            shutil.rmtree(folder, ignore_errors=True)  # the same step, saved again
            staging.rename(folder)
            rotate_checkpoints(str(folder.parent), limit, use_mtime=True)
            self._complete(folder, parts, step, good=good)

        self._writer.start(write)

    def _complete(self, folder: Path, parts: Sequence[Finish], step: int, *, good: bool) -> None:
        """Add what is not the Trainer's, and offer the checkpoint."""
        for finish in parts:
            finish(folder)
        check_resumable(folder, step)
        self._outbox.put(folder, step, good=good)
        self._reporter.saved_step = step


class WrittenFirst(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """For callbacks that come after it: what they are told is saved is on the disk."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    def on_save(self, *_: Any, **__: Any) -> None:
        """Wait."""
        self._saver.finish()


def bring_together(folder: Path, processes: Processes) -> None:
    """Bring to the first node what other nodes wrote into their folder of a checkpoint: their random states."""
    elsewhere = processes.leads and not processes.first
    mine = {file.name: file.read_bytes() for file in folder.glob("*")} if elsewhere else {}
    for files in processes.bring(mine):
        for name, content in files.items():
            (folder / name).write_bytes(content)
    if elsewhere:
        shutil.rmtree(folder, ignore_errors=True)
