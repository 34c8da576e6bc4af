"""One JSON object a frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from aselect_runtime.errors import WriteError
from aselect_runtime.files import naming
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import SinkClosed, Write


@contextmanager
def lines(path: Path) -> Iterator[Write]:
    """Writes `Result.to_json` as one line a result.

    The file is written in place, one whole line at a time, so that it can be followed while the run goes on; whatever
    ends the run, the lines so far stay. An older file is replaced when the first line comes.
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
                stream.write(f"{line}\n".encode())

        yield write


@contextmanager
def standard_output() -> Iterator[Write]:
    """Writes the same lines to the standard output; a reader that has seen enough (`head`) closes it."""
    with FileIO(1, "w", closefd=False) as stream:

        def write(result: Result) -> None:
            data = memoryview(f"{result.to_json()}\n".encode())
            try:
                while data:  # a pipe may take less than all
                    data = data[stream.write(data) or 0 :]
            except BrokenPipeError:
                raise SinkClosed from None
            except OSError as error:
                raise WriteError(
                    f"-: could not write ({error.strerror}), expected an open standard output; write a .jsonl instead"
                ) from error

        yield write


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    with naming(path, faults=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened now, so that a place that cannot be written to is told before the run.
        stream = FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "w")
    with stream:
        yield stream
