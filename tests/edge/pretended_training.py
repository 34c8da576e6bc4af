"""`python -m tests.edge.pretended_training BACKBONE STREETS BIRDS OUT`: training on a device that shares no memory.

A tensor that was left on the CPU is an error there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aselect_edge.team import Team
from aselect_edge.training import Recipe, TrainRequest, Unfreeze, fit, run, train_bundle
from aselect_runtime.records import HeadSpec, Noise, Selection, Tap, Task
from tests.edge import pretended_device

STEPS = 2
RECIPE = Recipe(
    samples=4 * STEPS,
    batch=4,
    warmup=1,
    views=2,
    validations=2,
    window=16,
    denoising_windows=2,
    denoising_every=1,
    synthetic=0,
)
LINEAR = HeadSpec(kind="linear", channels=1)
PATHS: dict[str, tuple[Task, HeadSpec, str, Recipe]] = {
    "seg frozen": ("seg", HeadSpec(kind="edge", channels=8), "", RECIPE),
    "seg whole": ("seg", HeadSpec(kind="conv", channels=8), "all", replace(RECIPE, overlap="lovasz")),
    "seg low-rank": ("seg", LINEAR, "lora:2", RECIPE),
    "cls frozen": ("cls", HeadSpec(kind="attention", channels=8), "", RECIPE),
    "cls last": ("cls", LINEAR, "last:1", RECIPE),
}


class _InterruptedError(Exception):
    pass


def main(backbone: str, streets: str, birds: str, out: str) -> None:
    """Train every path on the CPU, there and on the CPU, and the other way round; print the curves as JSON."""
    pretended_device.register()
    setattr(run, "draw_report", lambda *_: None)  # noqa: B010 - drawing takes longer than these runs
    noise = Noise(alpha=0.99, sigma=0.14, model_timestep=50)
    selection = Selection(backbone=backbone, noise=noise, tap=Tap(block=1, component="query"), strategy="hfr", seed=5)
    folders = {"seg": Path(streets), "cls": Path(birds)}
    curves: dict[str, list[Any]] = {}
    for name, (task, head, unfreeze, recipe) in PATHS.items():
        how = Unfreeze.parse(unfreeze) if unfreeze else None
        plain = TrainRequest(task, backbone, selection, folders[task], Path(out), (), (24, 32), head, recipe, how)
        there = replace(plain, device=torch.device(pretended_device.NAME))
        curves[name] = [
            _trained([replace(each, out=Path(out) / f"{name} {order}") for each in devices])
            for order, devices in enumerate(([plain], [there, plain], [plain, there]))
        ]
    print(json.dumps(curves))


def _trained(requests: list[TrainRequest]) -> Any:
    """The curve of one run whose first half is the first request's and whose second half is the last one's."""
    step = fit._descend
    for request in requests:
        last = request is requests[-1]
        device = pretended_device.NAME + ":0" if request.device.type == pretended_device.NAME else "cpu"
        fit._descend = _watched(step, device, 99 if last else STEPS // 2)
        try:
            curve = train_bundle(request).curve
        except _InterruptedError:
            assert not last
        finally:
            fit._descend = step
    return curve


def _watched(step: Any, device: str, most: int) -> Any:
    """An optimiser's step that checks where everything is, and interrupts instead of taking more steps than `most`."""
    taken = 0

    def watched(optimiser: torch.optim.Optimizer, loss: Tensor, clip: float | None, team: Team) -> None:
        nonlocal taken
        if taken == most:
            raise _InterruptedError
        taken += 1
        step(optimiser, loss, clip, team)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        moments = [v for state in optimiser.state.values() for v in state.values() if v.dim()]
        found = {str(each.device) for each in (loss, *parameters, *gradients, *moments)}
        assert found == {device}, found

    return watched


if __name__ == "__main__":
    main(*sys.argv[1:])
