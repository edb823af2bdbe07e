"""The worker processes of one run, as torchrun starts them. A single process needs no process group."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

TIMEOUT = timedelta(hours=6)
"""While rank 0 downloads a large model the others wait at a barrier. A dead peer is noticed at once: by torchrun on its
own node, by PID 1 on another."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    nodes: int = 1

    @classmethod
    def join(cls) -> "Processes":
        """Read torchrun's environment; with several processes, join the group (waits until all are there)."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        if world > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=TIMEOUT)
        return cls(rank, world, local_rank, world // int(os.environ.get("LOCAL_WORLD_SIZE", str(world))))

    @property
    def first(self) -> bool:
        """Whether this process talks, saves and publishes."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process downloads: the first one of its node, for no two nodes share a disk."""
        return self.local_rank == 0 if self.nodes > 1 else self.first

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

    def bring(self, files: dict[str, bytes]) -> list[dict[str, bytes]]:
        """Files by name from every process to the first one; the others get nothing."""
        found: list[Any] | None = [None] * self.world if self.first else None
        distributed.gather_object(files, found)
        return found or []

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
