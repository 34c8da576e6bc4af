"""Progress of long operations, and how commands show it on stderr: a bar on a terminal, and the log lines.

A library function has a parameter `progress`, and logs information and warnings to the logger of its module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a long operation. It is called from the thread that does the operation."""

    def __call__(self, what: str, share: float, /) -> None:
        """Report the current step and the share that is done: 0 to 1, and 0 if that is not known."""


def silent(_what: str, _share: float, /) -> None:
    """A Progress that ignores what is reported."""


@contextmanager
def terminal_progress(shown: bool = True) -> Iterator[Progress]:
    """Show a progress bar on stderr inside the context; nothing if stderr is no terminal, or if `shown` is False."""
    if not (shown and sys.stderr.isatty()):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    # The text may contain brackets, which rich would read as markup.
    what_column = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), TaskProgressColumn(), BarColumn(), TimeElapsedColumn(), what_column)
    # Log lines are printed above the bar; paths in them must not be wrapped.
    bar = Bar(*columns, console=Console(stderr=True, soft_wrap=True), transient=True)

    def progress(what: str, share: float, /) -> None:
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(what, total=1.0)
        bar.update(task, description=what, completed=share)

    with bar:
        yield progress


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show the log on stderr inside the context, one line per record: this project from INFO, others from WARNING."""
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
    """The message on one line without terminal escapes, which names of files, classes and tensors may contain."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


class _Stderr(logging.Handler):
    """Looks up sys.stderr for every line, because a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = self.format(record) if record.exc_info else one_line(self.format(record))
            print(prefix + text, file=sys.stderr, flush=True)
        except Exception:  # a log line that cannot be written must not end the operation
            self.handleError(record)
