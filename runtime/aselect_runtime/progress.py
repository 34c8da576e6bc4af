"""Progress of long operations, and how commands show it on stderr: a bar or a line a minute, and the log.

A library function has a parameter `progress`, and logs information and warnings to the logger of its module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Protocol

from aselect_runtime.pace import EVERY, Pace, duration

RESUMES = "the same command resumes"
"""What is said on Ctrl-C of an operation that goes on where it stood."""


class Progress(Protocol):
    """Receives the progress of a long operation. It is called from the thread that does the operation."""

    def __call__(self, what: str, share: float, /) -> None:
        """Report the current step and the share that is done: 0 to 1, and 0 if that is not known."""


def silent(_what: str, _share: float, /) -> None:
    """A Progress that ignores what is reported."""


@contextmanager
def terminal_progress(shown: bool = True, *, resumes: bool = False) -> Iterator[Progress]:
    """Show progress on stderr inside the context: a bar on a terminal, elsewhere a line a minute.

    Once the pace of an operation is known, a line says about how long it takes. `resumes` says that the same command
    goes on where an interrupted one stopped, which is then told, also on Ctrl-C. Nothing is shown if `shown` is False.
    """
    try:
        if not shown:
            yield silent
        elif sys.stderr.isatty():
            with _bar(Pace(resumes)) as progress:
                yield progress
        else:
            with _lines(Pace(resumes)) as progress:
                yield progress
    except KeyboardInterrupt as interrupt:
        interrupt.args = (RESUMES,) if resumes else ()
        raise


@contextmanager
def _bar(pace: Pace) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    # The text may contain brackets, which rich would read as markup.
    columns = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("fields[left]", "description")]
    # Log lines are printed above the bar; paths in them must not be wrapped.
    console = Console(stderr=True, soft_wrap=True)
    bar = Bar(SpinnerColumn(), TaskProgressColumn(), BarColumn(), *columns, console=console, transient=True)

    def progress(what: str, share: float, /) -> None:
        now = monotonic()
        announced = pace.heard(what, share, now)
        if announced:
            print(announced, file=sys.stderr)  # which the bar redirects above itself
        left = pace.left(now)
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(what, total=1.0, left="")
        bar.update(task, description=what, completed=share, left="" if left is None else f"{duration(left)} left")

    with bar:
        yield progress


@contextmanager
def _lines(pace: Pace) -> Iterator[Progress]:
    """From a thread, because an operation may take minutes between two reports."""
    done = Event()

    def progress(what: str, share: float, /) -> None:
        announced = pace.heard(what, share, monotonic())
        if announced:
            print(announced, file=sys.stderr, flush=True)

    def each_minute() -> None:
        while not done.wait(EVERY):
            if pace.what:
                print(pace.line(monotonic()), file=sys.stderr, flush=True)

    thread = Thread(target=each_minute, name="progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        done.set()
        thread.join()


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
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """The text with `?` for line breaks, terminal escapes and all else that is not printable."""
    return "".join(char if char.isprintable() else "?" for char in text)


class _Stderr(logging.Handler):
    """Looks up sys.stderr for every line, because a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = self.format(record) if record.exc_info else one_line(self.format(record))
            print(prefix + text, file=sys.stderr, flush=True)
        except Exception:  # a log line that cannot be written must not end the operation
            self.handleError(record)
