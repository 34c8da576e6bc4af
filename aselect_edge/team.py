"""Several processes that share one piece of work, started by `torchrun`; a single process otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from aselect_runtime.errors import PeerError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process's rank among `size` processes.

    What involves the other processes must be called by all of them in the same order; it raises PeerError if one of
    them has ended. torch is imported by the first such call.
    """

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
        """The sum of a tensor over all processes."""
        if self.size > 1:
            import torch.distributed as dist

            tensor = tensor.clone()
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def agree(self, value: float) -> float:
        """The first process's value, for decisions that depend on a clock."""
        return float(self.told(value))

    def told(self, thing: Any = None) -> Any:
        """What the first process gives, in every process."""
        if self.size == 1:
            return thing
        import torch.distributed as dist

        box = [thing]
        with _together():
            dist.broadcast_object_list(box)
        return box[0]

    def collected(self, thing: T) -> list[T]:
        """What each process gives, in the order of the ranks; empty in all but the first process."""
        if self.size == 1:
            return [thing]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _together():
            dist.gather_object(thing, found if self.leads else None)
        return found if self.leads else []

    def equalise(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of the first one."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _together():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)


ALONE = Team()
LONGEST = timedelta(days=7)
"""The others may wait so long for one that works alone; one that has ended is noticed at once."""


def leads() -> bool:
    """Whether this process, of those that torchrun started, is the one that reports and writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def assemble() -> Iterator[Team]:
    """The team that torchrun's environment describes, over gloo; a single process without it.

    Raises PeerError if another process does not come or ends.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    with _together():
        dist.init_process_group("gloo", timeout=LONGEST)
    log = logging.getLogger("aselect_edge")
    level = log.level
    if dist.get_rank():
        log.setLevel(logging.ERROR)  # one process is enough to report what all of them see
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
        with _together():
            dist.barrier()  # the first process to finish must not close a connection that another still uses
    finally:
        log.setLevel(level)
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Turns the errors of torch.distributed, which are RuntimeErrors of several lines, into one PeerError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PeerError(
            f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}: got no answer from the "
            f"others ({reason}), expected all of them until the end; look at why one ended, then start all again"
        ) from error
