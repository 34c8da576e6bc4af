"""Watching a build: TensorRT's phases as one fraction, on a terminal or in silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Watch(Protocol):
    """Is told how a build goes; called from the thread that builds, and must not raise."""

    def say(self, line: str) -> None:
        """What begins now, in plain words."""

    def advance(self, fraction: float, phase: str) -> None:
        """How much of the build is done, 0 to 1 and never falling, and the phase that runs."""


class Silence:
    """A Watch that nobody looks at."""

    def say(self, line: str) -> None:
        """See Watch."""

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


class Lines:
    """A Watch that prints each line on stderr, for logs."""

    def say(self, line: str) -> None:
        """See Watch."""
        print(line, file=sys.stderr, flush=True)

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


class Told:
    """A Watch for who wants the lines alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def say(self, line: str) -> None:
        """See Watch."""
        self._tell(line)

    def advance(self, fraction: float, phase: str) -> None:
        """See Watch."""


@contextmanager
def terminal_watch() -> Iterator[Watch]:
    """A progress bar on stderr once a build reports progress; plain lines where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.percentage:3.0f} %"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)

    class Bar:
        def say(self, line: str) -> None:
            bar.console.print(line, markup=False, highlight=False)
            for task in bar.task_ids:
                bar.reset(task, visible=False)

        def advance(self, fraction: float, phase: str) -> None:
            task = bar.task_ids[0] if bar.task_ids else bar.add_task("", total=1.0, phase="")
            bar.update(task, completed=fraction, phase=phase, visible=True)

    with bar:
        yield Bar()


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """How much of a build is done, from the phases that TensorRT reports: a tree that grows while it runs."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins within the current step of `parent`."""
        self._phases[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """Step number `step`, counted from 0, of a phase is complete."""
        if phase := self._phases.get(name):
            phase.done = min(phase.steps, max(phase.done, step + 1))

    def finish(self, name: str) -> None:
        """A phase and all within it are over."""
        phase = self._phases.pop(name, None)
        if phase and phase.parent is None:
            self._fraction = 1.0

    @property
    def current(self) -> str:
        """The phase that began last and still runs."""
        return next(reversed(self._phases), "")

    @property
    def fraction(self) -> float:
        """0 to 1; never falls, although TensorRT adds phases as it goes."""
        roots = [name for name, phase in self._phases.items() if phase.parent is None]
        if roots:
            self._fraction = max(self._fraction, self._of(roots[0], frozenset()))
        return self._fraction

    def _of(self, name: str, above: frozenset[str]) -> float:
        phase, seen = self._phases[name], above | {name}
        inner = [self._of(n, seen) for n, child in self._phases.items() if child.parent == name and n not in seen]
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)
