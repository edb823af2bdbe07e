"""Which strategy a run uses."""

import sys

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Strategy


def strategy_of(run: RunFile) -> Strategy:
    """The strategy of this run; a lone process has nobody to share with."""
    return run.training.parallelism.strategy if run.world > 1 else Strategy.DDP


def hide_deepspeed() -> None:
    """Keep a process that does not use DeepSpeed from importing it.

    transformers and accelerate import it wherever they find it, if only to ask whether a model is one of its engines: a
    second of start-up, and a thousand modules. To be called before either is imported.
    """
    sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]  # documented: import finds nothing then
