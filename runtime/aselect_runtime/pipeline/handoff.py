"""A bounded queue between two threads that also passes on the end and an error."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Handoff(Generic[T]):
    """A bounded queue between one producer and one consumer that either side can end.

    The producer calls `put` and finally `close`; the consumer iterates or calls `take`, and calls `abandon` if it
    stops early.
    """

    def __init__(self, depth: int) -> None:
        self.dropped = 0
        self._depth = depth
        self._items: deque[tuple[T, bool]] = deque()
        self._changed = Condition()
        self._closed = self._abandoned = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, *, newest_wins: bool = False) -> bool:
        """Queue one item; False if the consumer has stopped.

        Waits while the queue is full. An item put with `newest_wins` never waits: if the queue is full, the oldest such
        item is dropped, or the new item if there is none, and counted in `dropped`. Items put without it are always
        delivered.
        """
        with self._changed:
            if newest_wins and len(self._items) >= self._depth:
                self.dropped += 1
                oldest = next((place for place, (_, weak) in enumerate(self._items) if weak), None)
                if oldest is None:
                    return not self._abandoned
                del self._items[oldest]
            while len(self._items) >= self._depth and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                return False
            self._items.append((item, newest_wins))
            self._changed.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """Mark the end of the items; `error` is raised in the consumer after the last one."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Stop the queue from the consumer's side: discards queued items and wakes a waiting producer."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> T | None:
        """The next item, or None at the end; raises TimeoutError after `timeout` seconds, or the producer's error."""
        with self._changed:
            ready = self._changed.wait_for(lambda: self._items or self._closed or self._abandoned, timeout)
            if not ready:
                raise TimeoutError
            if self._items:
                item, _ = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def __iter__(self) -> Iterator[T]:
        while (item := self.take()) is not None:
            yield item
