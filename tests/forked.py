"""Python processes that start at once: forked from one that has imported what takes seconds to import.

For what a command does in a process of its own, or in two. What an interpreter does when it starts (imports, threads,
memory) is tested with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

IMPORTED = ["aselect_edge.api", "aselect_export.api", "aselect_runtime.commands.run", "torch.distributed"]
SECONDS = 300.0
"""A process that takes longer hangs."""
Words = Sequence[str | Path]


@dataclass(frozen=True)
class Forked:
    """A process that was started; what it writes goes to files."""

    process: ForkServerProcess
    folder: Path

    @property
    def returncode(self) -> int | None:
        """As of subprocess: None while it runs, and the negative number of the signal that ended it."""
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """Its standard output and error when it has ended; raises TimeoutExpired."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired([str(self.process.name)], timeout)
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return out, err


def start(words: Words, variables: Mapping[str, str] | None = None) -> Forked:
    """Start what `python *words` would: `-m module` or `-c code`, with arguments; `variables` join our own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    folder = Path(tempfile.mkdtemp(prefix="forked-"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    process = context.Process(target=_main, args=(list(map(str, words)), environment, os.getcwd(), folder))
    weakref.finalize(process, shutil.rmtree, folder, ignore_errors=True)
    process.start()
    return Forked(process, folder)


def run(*words: str | Path, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What `python *words` would do, once it has ended."""
    started = start(words, variables)
    out, err = started.communicate()
    return subprocess.CompletedProcess(list(map(str, words)), started.returncode or 0, out, err)


@contextmanager
def team(words: Words, port: int) -> Iterator[list[Forked]]:
    """Two processes with the variables that torchrun gives them; those that still run at the end are killed."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pair = [start(words, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    try:
        yield pair
    finally:
        for each in pair:
            each.process.kill()
            each.process.join()


def shared(words: Words, port: int) -> list[subprocess.CompletedProcess[str]]:
    """What two processes of a team do; one that fails leaves the other some seconds to end, as torchrun does."""
    with team(words, port) as pair:
        last = time.monotonic() + SECONDS
        while any(each.returncode is None for each in pair) and not any(each.returncode for each in pair):
            assert time.monotonic() < last
            pair[0].process.join(0.05)
        for each in pair:
            each.process.join(10)
    texts = [each.communicate() for each in pair]
    return [
        subprocess.CompletedProcess(list(map(str, words)), each.returncode or 0, *text)
        for each, text in zip(pair, texts, strict=True)
    ]


def _main(words: list[str], environment: dict[str, str], folder: str, out: Path) -> None:
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    kind, what, *arguments = words
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
