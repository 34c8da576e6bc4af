"""What every source of frames is."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from aselect_runtime.results import Captured, SourceInfo


class Source(Protocol):
    """A context manager that iterates frames; it holds its device or file only between enter and exit.

    The iteration ends where the frames end by themselves. A live source that loses its camera raises InputError; it
    may be entered again, and then starts with a fresh connection.
    """

    info: SourceInfo

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]: ...
