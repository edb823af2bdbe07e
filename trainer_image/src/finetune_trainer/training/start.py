"""Join the other processes and open the session; imports torch, and quiets the libraries."""

from transformers.utils import logging as transformers_logging

from finetune_api.run import RunFile
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir


def start(run: RunFile, work: WorkDir, stop: StopSwitch) -> Session:
    """Open the session of this process."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    processes = Processes.join()
    return Session(run, work, stop, processes, Reporter(run.name, work, talks=processes.first))
