"""What the project says to its log, for tests that listen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(tell: Callable[[str], object]) -> Iterator[None]:
    """Call `tell` with every line that the log gets meanwhile, from INFO upwards, in the thread that logs it."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.getMessage())

    root, ear = logging.getLogger(), Ear()
    level = root.level
    root.addHandler(ear)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(ear)
