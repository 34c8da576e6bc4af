"""Watching work that takes long, on a terminal, in a log or in silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Watch(Protocol):
    """Is told how a build goes; called from the thread that builds, and must not raise."""

    def say(self, line: str) -> None:
        """What begins now, in plain words."""

    def advance(self, fraction: float, phase: str) -> None:
        """How much of the build is done, 0 to 1 and never falling, and the phase that runs."""


class Silence:
    """A Watch that nobody looks at."""

    def say(self, line: str) -> None:
        """See Watch."""

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


class Lines:
    """A Watch that prints each line on stderr, for logs."""

    def say(self, line: str) -> None:
        """See Watch."""
        print(line, file=sys.stderr, flush=True)

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


class Told:
    """A Watch for who wants the lines alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def say(self, line: str) -> None:
        """See Watch."""
        self._tell(line)

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


@contextmanager
def terminal_watch() -> Iterator[Watch]:
    """A progress bar on stderr once a build reports progress; plain lines where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.percentage:3.0f} %"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)

    class Bar:
        def say(self, line: str) -> None:
            bar.console.print(line, markup=False, highlight=False)
            for task in bar.task_ids:
                bar.reset(task, visible=False)

        def advance(self, fraction: float, phase: str) -> None:
            task = bar.task_ids[0] if bar.task_ids else bar.add_task("", total=1.0, phase="")
            bar.update(task, completed=fraction, phase=phase, visible=True)

    with bar:
        yield Bar()
