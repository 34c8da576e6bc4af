"""Several processes that share one scan, started by `torchrun`; a single process otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process's rank among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This process's part of the work: a contiguous piece, of equal size up to one item."""
        start, end = (len(work) * place // self.size for place in (self.rank, self.rank + 1))
        return work[start:end]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a CPU tensor over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor


def leads() -> bool:
    """Whether this process, of those that torchrun started, is the one that reports and writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def assemble() -> Iterator[Team]:
    """The team that torchrun's environment describes, over gloo; a single process without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    dist.init_process_group("gloo")
    log = logging.getLogger("aselect_edge")
    level = log.level
    if dist.get_rank():
        log.setLevel(logging.ERROR)  # one process is enough to report what all of them see
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # the first process to finish must not close a connection that another still uses
    finally:
        log.setLevel(level)
        dist.destroy_process_group()
