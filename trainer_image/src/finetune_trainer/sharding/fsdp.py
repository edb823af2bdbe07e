"""torch's FSDP2 (https://arxiv.org/abs/2304.11277), as transformers applies it while it reads a model.

Each process reads its share of the base and gathers one layer at a time. The adapter comes after, is whole in every
process, and its gradient is averaged: what is saved does not know of shares.
"""

from typing import Any

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Strategy
from finetune_trainer.sharding.strategy import strategy_of


def shares_of(run: RunFile) -> int:
    """Among how many processes the base is shared out when it is read."""
    return run.world if strategy_of(run) is Strategy.FSDP else 1


def share_out(shares: int) -> Any:
    """What tells transformers to read a share."""
    from transformers.distributed import DistributedConfig  # noqa: PLC0415 - the newest of its parts, and rarely used

    return DistributedConfig(fsdp_size=shares)
