"""Where a run stands, and the file that lets an interrupted one go on.

The file is torch's own format, the one place of this project that is not safetensors or JSON, because it holds an
optimiser's state; it is only ever read with `weights_only=True`, which runs no code.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.files import atomic_write

CHECKPOINT, CURVE = "checkpoint.pt", "curve.csv"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; raises IntegrityError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated kinds on what it did not write
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path}: unreadable ({reason}), expected a checkpoint; remove it") from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: got {type(content).__name__}, expected a checkpoint; remove it")
    return content


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write atomically; through bytes, because torch reports a full disk as an error of its own kind."""
    stream = io.BytesIO()
    torch.save(content, stream)
    atomic_write(path, stream.getvalue())


@dataclass
class RunState:
    """Steps done, the best model on val so far, and the learning curve."""

    step: int = 0
    best: float = -1.0
    loss_sum: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def validated(self, miou: float, batch: int, weights: dict[str, Tensor]) -> None:
        """Add a row to the curve, and keep the weights if they are the best."""
        since = self.step - (self.curve[-1][0] // batch if self.curve else 0)
        self.curve.append((self.step * batch, self.loss_sum / since, miou))
        self.loss_sum = 0.0
        if miou > self.best:
            self.best, self.best_weights = miou, {name: value.clone() for name, value in weights.items()}

    def save(self, workdir: Path, task: str, *parts: Any) -> None:
        """Write checkpoint and curve; `parts` are what has a state_dict."""
        states = [part.state_dict() for part in parts]
        content = {"task": task, "step": self.step, "best": self.best, "curve": self.curve}
        write_checkpoint(workdir / CHECKPOINT, {**content, "states": states, "best_weights": self.best_weights})
        text = io.StringIO()
        csv.writer(text).writerows([("samples", "loss", "val_miou"), *self.curve])
        atomic_write(workdir / CURVE, text.getvalue())

    @classmethod
    def resume(cls, workdir: Path, task: str, *parts: Any) -> RunState:
        """The state to go on from: a fresh one, or the checkpoint's if it is of the same task."""
        path = workdir / CHECKPOINT
        if not path.is_file():
            return cls()
        content = read_checkpoint(path)
        if content.get("task") != task:
            raise InputError(
                f"{path}: got a checkpoint of another backbone, tap, size or recipe, expected this run's; remove it "
                "or choose another --out"
            )
        try:
            for part, state in zip(parts, content["states"], strict=True):
                part.load_state_dict(state)
            curve = [(int(samples), float(loss), float(miou)) for samples, loss, miou in content["curve"]]
            return cls(content["step"], content["best"], 0.0, curve, content["best_weights"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise IntegrityError(f"{path}: incomplete ({error}), expected a checkpoint; remove it") from error
