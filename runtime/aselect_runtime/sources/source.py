"""The protocol that all sources of frames implement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from aselect_runtime.results import Captured, SourceInfo

T = TypeVar("T")


class Source(Protocol):
    """A context manager that iterates frames; its device or file is open only between enter and exit.

    The iteration ends when there are no more frames. A live source that loses its camera raises InputError; it is then
    entered again and must open a new connection. If a read hangs permanently, this happens before the thread of that
    read has exited the context.
    """

    info: SourceInfo

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]: ...


def path_text(given: str | Path | T) -> str | T:
    """A path as text, which is how all addresses of inputs and outputs are handled; anything else unchanged."""
    return str(given) if isinstance(given, Path) else given


def source_name(source: str | Source) -> str:
    """The URI, or the name of a source object."""
    return source if isinstance(source, str) else source.info.name
