"""The worker processes of one run, as torchrun starts them. A single process needs no process group."""

import os
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

TIMEOUT = timedelta(hours=6)
"""While rank 0 downloads a large model the others wait at a barrier; a dead peer is noticed by torchrun, at once."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int = 0
    world: int = 1

    @classmethod
    def join(cls) -> "Processes":
        """Read torchrun's environment; with several processes, join the group (waits until all are there)."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if world > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=TIMEOUT)
        return cls(rank, world)

    @property
    def first(self) -> bool:
        """Whether this process talks, downloads and publishes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them get the same answer."""
        return self.sum(float(flag)) > 0

    def sum(self, value: float) -> float:
        """The sum over all processes, in float64."""
        if self.world == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total.item())

    def sum_each(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each number over all processes, which bring equally many, or a single 0."""
        if self.world == 1:
            return values
        longest = torch.tensor([len(values)])
        distributed.all_reduce(longest, distributed.ReduceOp.MAX)  # a process without a row brings that 0
        totals = torch.zeros(int(longest), dtype=torch.float64)
        totals[: len(values)] = torch.from_numpy(values)
        distributed.all_reduce(totals)
        return totals.numpy()

    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
