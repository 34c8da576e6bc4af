"""kill -9 at random moments of each command that writes: `make soak` runs it, and `python -m tests.proof.kills`.

Each command first writes an older result. A second call with other options is then killed: half of the calls before a
change of a file that is drawn at random, half a random time after one (the seed is fixed). After each kill every
output must be the older or the newer one as a whole, everything there must be readable, and the same call, run again,
must give the newer outputs and remove what the killed one left. Files that a run of `aselect-run` writes in place
(lines, video) must hold what had been written but for the last second.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from aselect_runtime.errors import AselectError, GateError
from aselect_runtime.files import sha256
from aselect_runtime.temporaries import is_temporary
from benchmarks.harness import versions
from tests.proof.steps import ROOT, Check, Seen, prove

Contents = dict[str, str]
"""File, relative to the working folder -> SHA-256."""
SEED = 0


@dataclass(frozen=True)
class Job:
    """A command, in two versions whose outputs differ, that works in a folder of its own."""

    name: str
    command: str
    """MODULE:FUNCTION."""
    arguments: Callable[[Path, int], list[str]]
    """(working folder, version 0 or 1) -> its arguments."""
    outputs: tuple[str, ...]
    """Files and folders in the working folder; each is written whole or not at all."""
    check: Callable[[Path], None]
    """Reads everything in the working folder as its users do; raises AselectError."""
    prepare: Callable[[Path], None] = lambda _work: None
    listed: Callable[[Path], Collection[str]] | None = None
    """The files of the working folder that its record lists, for a command that adds files to a folder: others, which
    no user of the folder reads, may have been added by a killed run. None means all files."""
    forget: tuple[str, ...] = ()
    """What the first version leaves and the second would refuse."""


@dataclass
class Trial:
    """A job with the contents that each version gives."""

    job: Job
    place: Path
    older: Contents = field(default_factory=dict)
    newer: Contents = field(default_factory=dict)
    changes: int = 0
    seconds: float = 0.0

    @property
    def work(self) -> Path:
        return self.place / "work"

    def learn(self) -> None:
        """Run both versions, the second one twice: files that differ between its runs hold times, and are only read."""
        self.place.mkdir(parents=True)
        self.work.mkdir()
        self.job.prepare(self.work)
        self.call(0)
        self.older = self.contents()
        for name in self.job.forget:
            shutil.rmtree(self.work / name)
        shutil.copytree(self.work, self.place / "before", symlinks=True)
        self.call(1)
        first = self.contents()
        tally = json.loads(self.tally.read_text())
        self.changes, self.seconds = tally["changes"], tally["seconds"]
        self.restore()
        self.call(1)
        self.newer = {name: digest for name, digest in self.contents().items() if first.get(name) == digest}
        self.older = {name: digest for name, digest in self.older.items() if name in self.newer or name not in first}
        if self.older == self.newer:
            raise GateError(f"{self.job.name}: got the same outputs of both versions, expected others; change the job")

    def kill(self, chance: random.Random) -> None:
        """Kill one call, judge what it left, and run it again; draws again if the call ended first."""
        while True:
            at = chance.randrange(self.changes)
            delay = chance.choice([0.0, chance.uniform(0, self.seconds)])
            self.restore()
            if self.call(1, at, delay) == -signal.SIGKILL:
                break
        where = f"{self.job.name}, killed {delay:.2f} s after change {at} of {self.changes}"
        self.judge(where)
        self.call(1)
        if self.stable() != self.newer:
            raise GateError(f"{where}: got other outputs of the next run, expected those of a run that was not killed")
        left = [str(path) for path in self.work.rglob("*") if is_temporary(path.name)]
        if left:
            raise GateError(f"{where}: the next run left {', '.join(left)}, expected no temporary files")

    def judge(self, where: str) -> None:
        """Raise GateError unless every output is the older or the newer one and can be read."""
        found = self.stable()
        if self.job.listed is not None:
            counted = set(self.job.listed(self.work))
            found = {name: digest for name, digest in found.items() if name in counted}
        for output in self.job.outputs:
            here, older, newer = (_below(output, contents) for contents in (found, self.older, self.newer))
            if here not in (older, newer):
                strange = sorted(name for name in {*here, *older, *newer} if here.get(name) != newer.get(name))
                raise GateError(f"{where}: got {output} neither old nor new ({', '.join(strange)}), expected one")
        try:
            self.job.check(self.work)
        except (AselectError, OSError, ValueError) as error:
            raise GateError(f"{where}: got something unreadable ({error}), expected none") from error

    def stable(self) -> Contents:
        """The contents, without files that hold times."""
        return {name: digest for name, digest in self.contents().items() if name in {*self.older, *self.newer}}

    def contents(self) -> Contents:
        """The outputs that are there."""
        files = (path for name in self.job.outputs for path in _files(self.work / name))
        return {path.relative_to(self.work).as_posix(): sha256(path) for path in files}

    def restore(self) -> None:
        """The state after the first version."""
        shutil.rmtree(self.work)
        shutil.copytree(self.place / "before", self.work, symlinks=True)

    def call(self, version: int, at: int = -1, delay: float = 0.0) -> int:
        """Run the job to its end, or to its death at a change; raises GateError if it fails."""
        self.tally.unlink(missing_ok=True)
        words = ["tests.proof.killed", self.work, at, delay, self.tally, self.job.command]
        command = [sys.executable, "-m", *map(str, words), *self.job.arguments(self.work, version)]
        environment = os.environ | {"XDG_CACHE_HOME": str(self.place / "cache"), "OMP_NUM_THREADS": "1"}
        log = self.place / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
            )
            try:
                code = process.wait(900)
            finally:
                _end_group(process.pid)
        if code not in (0, -signal.SIGKILL) or (code and at < 0):
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise GateError(f"{self.job.name}: got exit code {code} ({' '.join(last)}), expected 0; run it by hand")
        return code

    @property
    def tally(self) -> Path:
        return self.place / "tally.json"


def _below(output: str, contents: Contents) -> Contents:
    return {name: digest for name, digest in contents.items() if name == output or name.startswith(f"{output}/")}


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return [each for each in sorted(path.rglob("*")) if each.is_file() and not any(map(is_temporary, each.parts))]


def _end_group(group: int) -> None:
    """End what a killed command started."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def try_jobs(jobs: list[Job], place: Path, kills: int, seed: int = SEED) -> tuple[Check, ...]:
    """Kill each job equally often; raises GateError at the first fault."""
    checks = []
    for job in jobs:
        chance = random.Random(f"{seed} {job.name}")
        trial = Trial(job, place / job.name)
        trial.learn()
        rounds = kills // len(jobs)
        for number in range(rounds):
            trial.kill(chance)
            print(f"{job.name}: {number + 1} of {rounds} kills", file=sys.stderr, flush=True)
        what = f"`aselect-{job.name}`, `kill -9` at {rounds} random moments of {trial.changes} changes of files"
        checks.append(
            Check(what, "every output the old or the new one, nothing unreadable, each next run completed it")
        )
    return tuple(checks)


def main(
    kills: Annotated[int, typer.Option(min=5, help="Over all commands.")] = 40,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """Run the proof."""
    from tests.proof.kill_jobs import every_job  # here, because it imports torch

    def steps(place: Path) -> Seen:
        return Seen(versions(), try_jobs(every_job(place), place, kills, seed))

    prove("kills", steps, "make soak")


if __name__ == "__main__":
    typer.run(main)
