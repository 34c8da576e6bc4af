"""Run a command as a separate process: its time, its memory and its output."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAUNCH = """
import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
"""
"""A small process in between: the kernel counts the memory of the starting process as the new one's peak."""


@dataclass(frozen=True)
class Finished:
    """The result of a command."""

    code: int
    seconds: float
    peak_mb: float
    output: str
    errors: str


def run(command: Sequence[Any], prepare: Callable[[], None] | None = None) -> Finished:
    """Run a command to its end; its first element is a program's path. `prepare` runs in the process before it."""
    with tempfile.TemporaryDirectory() as folder:
        peak, output, errors = (Path(folder) / name for name in ("peak", "output", "errors"))
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(peak), *map(str, command)]
        with output.open("wb") as out, errors.open("wb") as err:
            start = time.perf_counter()
            code = subprocess.run(launcher, stdout=out, stderr=err, check=False, preexec_fn=prepare).returncode
            seconds = time.perf_counter() - start
        kilobytes = int(peak.read_text()) if peak.exists() else 0
        said = [path.read_text(encoding="utf-8", errors="replace") for path in (output, errors)]
    return Finished(code, seconds, kilobytes * 1024 / 1e6, *said)
