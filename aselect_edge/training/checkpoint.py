"""The state of a run, and the file from which an interrupted run resumes.

The file is in torch's format, the only one in this project that is not safetensors or JSON, because it holds an
optimiser's state; it is only ever read with `weights_only=True`, which runs no code.
"""

from __future__ import annotations

import csv
import io
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.training.learners import Measured
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import atomic_write

CHECKPOINT, CURVE = "checkpoint.pt", "curve.csv"
KEPT = ("step", "best", "losses", "curve", "best_weights", "metric")
"""What of a RunState is in a checkpoint."""
SECONDS = 60.0
"""Between two checkpoints of a run, beside those at its validations, …"""
SHARE = 20.0
"""… and so many times as long as it takes to write one, which for large models is longer."""


def working_folder(out: Path) -> Path:
    """The folder of checkpoint, curves and plots beside the bundle `out`."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.with_name(named.name + ".training")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; raises IntegrityError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated kinds for files that it did not write
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path}: unreadable ({reason}), expected a checkpoint; remove it") from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: got {type(content).__name__}, expected a checkpoint; remove it")
    return content


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write atomically; through bytes, because torch reports a full disk with its own exception class."""
    stream = io.BytesIO()
    torch.save(content, stream)
    atomic_write(path, stream.getvalue())


@dataclass
class RunState:
    """Steps done, the best model on val so far, and the learning curve."""

    step: int = 0
    best: float = -1.0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last validation."""
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(samples seen, mean loss since the row before, figure on val, loss on val)."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """On the CPU."""
    metric: str = "score"
    """What the figure is."""
    _next: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    @property
    def stale(self) -> int:
        """Validations since the best one."""
        figures = [row[2] for row in self.curve]
        return len(figures) - 1 - figures.index(max(figures)) if figures else 0

    def stepped(self, loss: float) -> None:
        """Count a step."""
        self.step += 1
        self.losses.append(loss)

    def validated(self, figures: Measured, batch: int, weights: dict[str, Tensor]) -> None:
        """Add a row to the curve, and keep the weights if they are the best."""
        self.curve.append((self.step * batch, sum(self.losses) / len(self.losses), figures.score, figures.loss))
        self.losses.clear()
        self.metric = figures.metric
        if figures.score > self.best:
            self.best = figures.score
            self.best_weights = {name: value.to("cpu", copy=True) for name, value in weights.items()}

    def save(self, workdir: Path, identity: str, *parts: Any) -> None:
        """Write checkpoint and curve; `parts` are what has a state_dict."""
        states = [part.state_dict() for part in parts]
        content = {"identity": identity, "states": states, **{name: getattr(self, name) for name in KEPT}}
        began = time.monotonic()
        write_checkpoint(workdir / CHECKPOINT, content)
        text = io.StringIO()
        csv.writer(text).writerows([("samples", "loss", f"val_{self.metric}", "val_loss"), *self.curve])
        atomic_write(workdir / CURVE, text.getvalue())
        ended = time.monotonic()
        self._next = ended + max(SECONDS, SHARE * (ended - began))

    def due(self) -> bool:
        """Whether so much was done since the last `save` that an interruption would be a loss."""
        return time.monotonic() >= self._next

    @classmethod
    def resume(cls, workdir: Path, identity: str, *parts: Any) -> RunState:
        """The state to resume from: a new one, or that of a checkpoint of the same run."""
        path = workdir / CHECKPOINT
        if not path.is_file():
            return cls()
        content = read_checkpoint(path)
        if content.get("identity") != identity:
            raise InputError(
                f"{path}: got a checkpoint of another backbone, tap, size, data or recipe, expected this run's; remove "
                "it or choose another folder",
                parameter="out",
            )
        try:
            for part, state in zip(parts, content["states"], strict=True):
                part.load_state_dict(state)
            # Older checkpoints have no loss on val, and none of the steps since the last validation.
            rows = [(*row, math.nan)[:4] for row in content["curve"]]
            curve = [(int(samples), float(loss), float(figure), float(val)) for samples, loss, figure, val in rows]
            losses = list(content.get("losses", []))
            state = cls(content["step"], content["best"], losses, curve, content["best_weights"])
            state.metric = content.get("metric", state.metric)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise IntegrityError(f"{path}: incomplete ({error}), expected a checkpoint; remove it") from error
        return state
