"""The way from many inputs to one session: a lane for each, emptied in turns."""

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

    A live lane is a slot that holds the newest item only; any other delivers everything and makes its producer wait
    where `depth` items wait already.
    """

    def __init__(self, live: list[bool], depth: int) -> None:
        self._lanes: list[_Lane[T]] = [_Lane(flag) for flag in live]
        self._depth = depth
        self._next = 0
        self._changed = Condition()
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, lane: int, item: T) -> bool:
        """Hand over one item; False when the consumer has gone."""
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
        """No more items will come on this lane."""
        with self._changed:
            self._lanes[lane].open = False
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Raise `error` to the consumer once nothing waits any more; of several, the first."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more items will be taken: wakes every waiting producer."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def take(self, size: int, *, wait: bool = True) -> list[T]:
        """Up to `size` items, one lane after the other, beginning behind the lane that was served last; [] at the end.

        A full batch is waited for only where nothing is lost by waiting: as soon as a live lane has an item, whatever
        is there goes, so that neither a dead camera nor a slow one holds up the rest. Without `wait`, [] may also mean
        that a batch is yet to come, and no error is raised.
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
        """How many items of a live lane gave way to newer ones."""
        return self._lanes[lane].dropped

    def waiting(self) -> int:
        """How many items wait on all lanes."""
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
