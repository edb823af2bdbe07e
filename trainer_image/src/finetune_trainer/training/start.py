"""Join the other processes and open the session; imports torch, and quiets the libraries."""

import torch
from transformers.utils import logging as transformers_logging

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir


def start(run: RunFile, work: WorkDir, stop: StopSwitch) -> Session:
    """Open the session of this process."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _check_gpus(run.gpus)
    processes = Processes.join()
    return Session(run, work, stop, processes, Reporter(run.name, work, talks=processes.first))


def _check_gpus(wanted: int) -> None:
    """Refuse to train on the CPU what was meant for GPUs."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < wanted:
        raise RunError(
            Reason.GPU_UNAVAILABLE,
            f"the job asks for {wanted} GPUs and torch {torch.__version__} sees {found}",
            "Look at the node's driver and device plugin, or train on the CPU with resources.gpus: 0.",
        )
