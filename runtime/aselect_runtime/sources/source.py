"""What every source of frames is."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from aselect_runtime.results import Captured, SourceInfo


class Source(Protocol):
    """A context manager that iterates frames; it holds its device or file only between enter and exit.

    The iteration ends where the frames end by themselves. A live source that loses its camera raises InputError; it
    is entered again, and then starts with a fresh connection. Where a read can hang for good, that happens while the
    thread that hangs has not left it yet.
    """

    info: SourceInfo

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]: ...


def source_name(source: str | Source) -> str:
    """The URI, or the name of a source object."""
    return source if isinstance(source, str) else source.info.name
