"""Progress of a build as one fraction, from the phases that TensorRT reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """Share of a build that is done, from the phases that TensorRT reports: a tree that grows during the build."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Record that a phase of `steps` steps begins within the current step of `parent`."""
        self._phases[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """Record that step number `step`, counted from 0, of a phase is complete."""
        if phase := self._phases.get(name):
            phase.done = min(phase.steps, max(phase.done, step + 1))

    def finish(self, name: str) -> None:
        """Record that a phase and all phases within it are complete."""
        phase = self._phases.pop(name, None)
        if phase and phase.parent is None:
            self._fraction = 1.0

    @property
    def current(self) -> str:
        """Name of the phase that began last and is still running."""
        return next(reversed(self._phases), "")

    @property
    def fraction(self) -> float:
        """Share that is done, 0 to 1; never decreases, although TensorRT adds phases during the build."""
        roots = [name for name, phase in self._phases.items() if phase.parent is None]
        if roots:
            self._fraction = max(self._fraction, self._of(roots[0], frozenset()))
        return self._fraction

    def _of(self, name: str, above: frozenset[str]) -> float:
        phase, seen = self._phases[name], above | {name}
        inner = [self._of(n, seen) for n, child in self._phases.items() if child.parent == name and n not in seen]
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)
