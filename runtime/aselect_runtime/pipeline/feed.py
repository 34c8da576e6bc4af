"""The queue from many inputs to one session: a lane for each, served in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Lane(Generic[T]):
    live: bool
    items: deque[T] = field(default_factory=deque)
    dropped: int = 0
    open: bool = True


class Feed(Generic[T]):
    """Lanes from one producer each to one consumer.

    A live lane holds the newest item only; any other delivers everything and makes its producer wait while `depth`
    items are queued.
    """

    def __init__(self, live: list[bool], depth: int) -> None:
        self._lanes: list[_Lane[T]] = [_Lane(flag) for flag in live]
        self._depth = depth
        self._next = 0
        self._changed = Condition()
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, lane: int, item: T) -> bool:
        """Queue one item; False if the consumer has stopped."""
        own = self._lanes[lane]
        with self._changed:
            if own.live:
                own.dropped += len(own.items)
                own.items.clear()
            while len(own.items) >= self._depth and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                return False
            own.items.append(item)
            self._changed.notify_all()
            return True

    def close(self, lane: int) -> None:
        """Mark the lane as ended: no more items will come on it."""
        with self._changed:
            self._lanes[lane].open = False
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the consumer after all queued items; of several errors, the first."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Stop the feed from the consumer's side; wakes every waiting producer."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def take(self, size: int, *, wait: bool = True) -> list[T]:
        """Up to `size` items, lane by lane, beginning after the lane that was served last; [] at the end.

        As soon as a live lane has an item, all queued items are returned, so that a lost or slow camera does not delay
        the others; otherwise a full batch is waited for. Without `wait`, [] may also mean that no batch is ready yet,
        and no error is raised.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._ready(size))
            elif not self._ready(size):
                return []
            taken = list(self._in_turns(size))
            if wait and not taken and self._error is not None:
                raise self._error
            self._changed.notify_all()
            return taken

    def dropped(self, lane: int) -> int:
        """Number of items of a live lane that were replaced by newer ones."""
        return self._lanes[lane].dropped

    def waiting(self) -> int:
        """Number of queued items on all lanes."""
        return sum(len(lane.items) for lane in self._lanes)

    def _ready(self, size: int) -> bool:
        if self._error is not None or self._abandoned or not any(lane.open for lane in self._lanes):
            return True
        return self.waiting() >= size or any(lane.live and lane.items for lane in self._lanes)

    def _in_turns(self, size: int) -> Iterator[T]:
        for _ in range(size):
            order = [(self._next + step) % len(self._lanes) for step in range(len(self._lanes))]
            lane = next((number for number in order if self._lanes[number].items), None)
            if lane is None:
                return
            self._next = (lane + 1) % len(self._lanes)
            yield self._lanes[lane].items.popleft()
