"""JSON lines: one object per frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aselect_runtime.errors import WriteError
from aselect_runtime.files import WholeFile, naming, refuse_special, removed
from aselect_runtime.locking import lock
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import SinkClosed, Write


@contextmanager
def lines(path: Path) -> Iterator[Write]:
    """Writes `Result.to_json` as one line per result.

    The file is written in place, one whole line at a time, so that it can be read during the run; however the run ends,
    the lines so far are kept. An older file is replaced when the first line is written. Raises WriteError, also if
    another process writes the file.
    """
    with _opened(path) as stream:
        begun = False

        def write(result: Result) -> None:
            nonlocal begun
            line = result.to_json()
            with naming(path, faults=None):
                if not begun:
                    stream.truncate()
                    begun = True
                stream.append(f"{line}\n".encode())
            _check_linked(stream, path)

        yield write
        _check_linked(stream, path)


def _check_linked(stream: WholeFile, path: Path) -> None:
    """Raise WriteError if the file has no name any more: the kernel takes further lines, and nobody can read them."""
    if os.fstat(stream.fileno()).st_nlink == 0:
        raise removed(path)


@contextmanager
def standard_output() -> Iterator[Write]:
    """Writes the same lines to the standard output; if the reader closes it (`head`), the sink ends."""
    with WholeFile(1, "w", closefd=False) as stream:

        def write(result: Result) -> None:
            line = result.to_json()
            try:
                stream.write(f"{line}\n".encode())
            except BrokenPipeError:
                raise SinkClosed from None
            except OSError as error:
                raise WriteError(
                    f"-: could not write ({error.strerror}), expected an open standard output; write a .jsonl instead"
                ) from error

        yield write


@contextmanager
def _opened(path: Path) -> Iterator[WholeFile]:
    with naming(path, faults=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(path)
        # Opened now, so that a path that is not writable is reported before the run.
        stream = WholeFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "w")
    with stream:
        lock(stream.fileno(), path)
        yield stream
