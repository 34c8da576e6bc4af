"""TensorRT's log: errors are collected for the text of an exception instead of being printed."""

from __future__ import annotations

import functools
from typing import Any

from aselect_runtime.engines.versions import Builder, load


def logger(builder: Builder) -> Any:
    """The logger of this process: TensorRT keeps the first that it is given and ignores any other."""
    return _logger_of(load(builder))


@functools.cache
def _logger_of(trt: Any) -> Any:
    class Errors(trt.ILogger):  # type: ignore[misc]
        """Collects in `errors` the messages since it was last cleared."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Errors()


def brief(text: str) -> str:
    """The first two lines as one; further lines are consequences of them."""
    return " - ".join(line.strip() for line in text.strip().splitlines()[:2])


def first(errors: list[str]) -> str:
    """The first error, which is the cause."""
    return brief(errors[0]) if errors else "no reason given"


def remedy(errors: list[str], otherwise: str, workspace_mib: int | None = None) -> str:
    """Advice for a failure, from the text of TensorRT's errors; `otherwise` if none of them is known.

    `workspace_mib` is the builder's limit of memory, if there was one.
    """
    text = " ".join(errors).lower()
    if any(words in text for words in ("out of memory", "outofmemory", "memory allocation", "insufficient memory")):
        more = "" if workspace_mib is None else f"leave out the workspace of {workspace_mib} MiB or give more, "
        return f"{more}close other programs that use the GPU, or use a smaller input size"
    if "version" in text and ("serializ" in text or "mismatch" in text or "compat" in text):
        return "run aselect-build on this machine"
    return otherwise
