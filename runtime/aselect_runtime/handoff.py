"""Passing items from one thread to another, with an end, an error, and room for a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Handoff(Generic[T]):
    """A bounded queue between one producer and one consumer that either side can end.

    The producer calls `put` and finally `close`; the consumer iterates, and calls `abandon` if it stops early.
    """

    def __init__(self, depth: int) -> None:
        self.dropped = 0
        self._depth = depth
        self._items: deque[tuple[T, bool]] = deque()
        self._changed = Condition()
        self._closed = self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: T, *, newest_wins: bool = False) -> bool:
        """Hand over one item; False when the consumer has gone.

        Waits for room. An item put with `newest_wins` gives way to the next such item if nobody has taken it by
        then, and is counted in `dropped`; items put without it are always delivered.
        """
        with self._changed:
            if newest_wins and not self._abandoned:
                kept = [entry for entry in self._items if not entry[1]]
                self.dropped += len(self._items) - len(kept)
                self._items = deque(kept)
            while len(self._items) >= self._depth and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                return False
            self._items.append((item, newest_wins))
            self._changed.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """No more items will come; `error` is raised to the consumer after the last one."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more items will be taken: wakes a waiting producer."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._closed:
                    self._changed.wait()
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item, _ = self._items.popleft()
                self._changed.notify_all()
            yield item
