"""Progress of long work, and what a command shows of it on stderr: a bar on a terminal, and the lines of the log.

A library function takes a `progress` and tells what it notes and warns of to the logger of its module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Follows long work. It is called from the thread that works."""

    def __call__(self, what: str, share: float, /) -> None:
        """What is being done now, and the share of it that is done: 0 to 1, and 0 where that is not known."""


def silent(_what: str, _share: float, /) -> None:
    """A Progress that shows nothing."""


@contextmanager
def terminal_progress(shown: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr while the context lasts; nothing where stderr is no terminal, or unless `shown`."""
    if not (shown and sys.stderr.isatty()):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    # What is being done may hold brackets, which rich would take for its markup.
    what_column = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), TaskProgressColumn(), BarColumn(), TimeElapsedColumn(), what_column)
    # Lines of the log that come meanwhile go above the bar; paths in them must not be broken.
    bar = Bar(*columns, console=Console(stderr=True, soft_wrap=True), transient=True)

    def progress(what: str, share: float, /) -> None:
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(what, total=1.0)
        bar.update(task, description=what, completed=share)

    with bar:
        yield progress


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show the log on stderr while the context lasts, a line a record: of this project from INFO, else from WARNING."""
    root, handler = logging.getLogger(), _Stderr()
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("aselect_"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def one_line(text: str) -> str:
    """A message fit for a terminal: names of files, classes and tensors in it may hold escapes that rule one."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


class _Stderr(logging.Handler):
    """Finds sys.stderr anew for every line, because a live bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = self.format(record) if record.exc_info else one_line(self.format(record))
            print(prefix + text, file=sys.stderr, flush=True)
        except Exception:  # a log that cannot be written must not end the work
            self.handleError(record)
