"""A situation: what is prepared, what is run, and what must come of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.runtime.situations.commands import Commands, Done, run_alone

RIGHT, TOLD = "right", "one clear line"
NEAR = 0.04
"""Difference of a share that lossy codecs may make: one column of the model's 32 and a bit."""
PROGRESS = re.compile(
    r"decoding \S+ (on the processor|by \S+): .*|\d+ frames in .*|ms +p50 +p95 +p99|wrote .*"
    r"|(capture|resize|wait|infer|age|output)( +[\d.]+){3}|.*: \d+ frames, \d+ dropped.*|.*: skipped \d+ images .*"
    r"|.*: \d+ results, \d+ dropped"
)
"""What a run says on stderr beside errors and warnings."""
USAGE = re.compile(r"Usage: .*|Try '.*| .*|$")


@dataclass(frozen=True)
class Place:
    """An empty folder in which the command runs, and the models that it may run."""

    folder: Path
    models: Mapping[str, Path]

    def file(self, name: str, content: bytes = b"") -> Path:
        """A file in the folder; its own folder is made too."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@dataclass(frozen=True)
class Run:
    """A run, and what must come of it: results, one line on stderr, or both where something is missing."""

    inputs: Sequence[str]
    outputs: Sequence[str] = ("out.jsonl",)
    options: Sequence[str] = ()
    model: str = "seg"
    shares: Sequence[float] | None = None
    """The share of bright pixels that each result in out.jsonl has."""
    live: bool = False
    """Whether frames may be left out."""
    told: str = ""
    """What the line says, as a regular expression; without it the run succeeds."""
    warned: str = ""
    """Warnings that are right; each line must match."""
    check: Callable[[Done], object] = lambda _: None
    """Raises AssertionError where something else is wrong."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    before: str = ""
    """Python that the run's process executes first."""
    times: int = 1
    """How often it runs; the last time counts."""
    shell: tuple[str, str] | None = None
    """Run from a shell, with this before the command and these redirections behind it."""

    def arguments(self, models: Mapping[str, Path]) -> list[str]:
        """The command's arguments."""
        outputs = [part for output in self.outputs for part in ("-o", output)]
        return [str(models.get(self.model, self.model)), *outputs, "--device", "cpu", *self.options, *self.inputs]


Make = Callable[[Place], "Run | AbstractContextManager[Run]"]


@dataclass(frozen=True)
class Case:
    """A situation by its name; `make` prepares it, and skips it where this machine lacks something."""

    name: str
    make: Make


def lines(done: Done, name: str = "out.jsonl") -> list[dict[str, Any]]:
    """The results that a run wrote."""
    return [json.loads(line) for line in (done.folder / name).read_text().splitlines()]


def outcome(case: Case, place: Place, commands: Commands) -> str:
    """RIGHT or TOLD; raises AssertionError where the situation came out wrong."""
    made = case.make(place)
    with nullcontext(made) if isinstance(made, Run) else made as run:
        arguments = run.arguments(place.models)
        for _ in range(run.times - 1):
            commands.run(arguments, place.folder)
        if run.shell is None:
            done = commands.run(arguments, place.folder, run.environment, run.before)
        else:
            done = run_alone(arguments, place.folder, run.environment, *run.shell)
        _judge_words(run, done)
        if run.shares is not None:
            _judge_results(run, run.shares, done)
        run.check(done)
    return TOLD if run.told else RIGHT


def _judge_words(run: Run, done: Done) -> None:
    said = [line for line in done.stderr.splitlines() if not PROGRESS.fullmatch(line)]
    if run.warned:
        said = [line for line in said if not re.search(run.warned, line)]
    if not run.told:
        assert (done.code, said) == (0, []), done.stderr
        return
    assert done.code in (1, 2), (done.code, done.stderr)
    if done.code == 2:
        said = [line for line in said if not USAGE.fullmatch(line)]
    assert len(said) == 1, done.stderr
    assert said[0].lower().startswith("error: "), said
    assert re.search(run.told, said[0]), said
    assert done.code == 2 or "expected" in said[0], said


def _judge_results(run: Run, shares: Sequence[float], done: Done) -> None:
    results = lines(done)
    assert [line["areas"]["bright"] for line in results] == pytest.approx(list(shares), abs=NEAR)
    frames = [line["frame"] for line in results]
    assert frames == (sorted(set(frames)) if run.live else list(range(len(shares))))
