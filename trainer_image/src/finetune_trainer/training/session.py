"""What every step of a run needs to know."""

from dataclasses import dataclass

from finetune_api.run import RunFile
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir


@dataclass(frozen=True)
class Session:
    """One process's view of one run."""

    run: RunFile
    work: WorkDir
    stop: StopSwitch
    processes: Processes
    reporter: Reporter
