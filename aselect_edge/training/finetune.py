"""Fine-tuning: which weights of a backbone are trained, and the denoising loss in addition to the task's loss.

Low-rank adaptation follows Hu et al. (arXiv 2106.09685). It is implemented here because the usual library depends on
a trainer, and because a merged backbone must be an ordinary one again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones.device import CPU, reduced
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.family import Backbone, expand
from aselect_edge.backbones.noise import FlowSchedule
from aselect_edge.backbones.sit import PathSchedule
from aselect_edge.bundle.model import TapModel
from aselect_edge.team import ALONE, Team
from aselect_edge.training.denoise import Denoising, Noised, prediction_error, window_positions
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.sharing import part_of, whole_rows
from aselect_runtime.errors import InputError

Noising = Callable[[Tensor], Noised]
"""Clean inputs x0 (N, C, h, w) -> the same at random noise levels, with the model's target."""


@dataclass(frozen=True)
class Unfreeze:
    """What is trained: the whole backbone, its last `count` blocks before the taps, or updates of rank `count`."""

    kind: Literal["all", "last", "lora"] = "all"
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Unfreeze:
        """Read `all`, `last:N` or `lora:R`; raises InputError."""
        if text == "all":
            return cls()
        found = re.fullmatch(r"(last|lora):([1-9]\d{0,4})", text, re.ASCII)
        if found is None:
            raise InputError(
                f"got {text!r} to unfreeze, expected all, last:N or lora:R, N blocks or rank R from 1; change it",
                parameter="unfreeze",
            )
        return cls("last" if found[1] == "last" else "lora", int(found[2]))

    def __str__(self) -> str:
        return self.kind if self.kind == "all" else f"{self.kind}:{self.count}"


class LowRank(nn.Linear):
    """A frozen linear layer plus a trainable update of rank R: y = W·x + b + up·(down·x), zero at first.

    The update is scaled by 1, the paper's alpha / R for alpha = R.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        # On the meta device, because the weights are those of the given layer.
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.down = nn.Parameter(self.weight.new_empty(rank, self.in_features))  # (R, in)
        self.up = nn.Parameter(self.weight.new_zeros(self.out_features, rank))  # (out, R)
        nn.init.normal_(self.down, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The same function as an ordinary linear layer."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(self.weight + self.up @ self.down), self.bias
        return plain


def unfreeze(model: TapModel, how: Unfreeze) -> list[nn.Parameter]:
    """Make only the part of the backbone selected by `how` trainable, and return its parameters; the head is unchanged.

    `last:N` counts from the last block that the taps depend on; embedders and later blocks stay frozen. Nothing before
    the first trained block is kept for the backward pass. `lora:R` adds updates to every linear layer of the blocks
    that the taps depend on, until `merge`. Raises InputError if the model has fewer blocks, or is narrower than the
    rank.
    """
    backbone = model.backbone
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    if how.kind == "all":
        backbone.requires_grad_(True)
        return list(backbone.parameters())
    blocks = cast(nn.ModuleList, backbone.blocks)[: _reach(model)]
    if how.kind == "last":
        _check(how, len(blocks), f"the taps depend on {len(blocks)} blocks")
        chosen = blocks[len(blocks) - how.count :].requires_grad_(True)
        return list(chosen.parameters())
    _check(how, backbone.width if len(blocks) else 0, f"the model is {backbone.width} wide, with {len(blocks)} blocks")
    added: list[nn.Parameter] = []
    for parent, name, linear in list(_linears(blocks)):
        lowered = LowRank(linear, how.count)
        setattr(parent, name, lowered)
        added += [lowered.down, lowered.up]
    return added


def merge(model: TapModel) -> None:
    """Merge low-rank updates into the plain layers, so that bundle, fold and export see an ordinary backbone.

    The function stays the same up to rounding. No effect on a model without such updates.
    """
    for parent, name, linear in list(_linears(model.backbone)):
        if isinstance(linear, LowRank):
            setattr(parent, name, linear.merged())


def noising_of(backbone: Backbone, schedule: dict[str, Any] | None, device: torch.device = CPU) -> Noising | None:
    """How a backbone was trained to denoise, on `device`; None if its output layer is missing, so that it cannot.

    `schedule` is diffusers' scheduler configuration, None for the family's own. DiT predicts the noise (or v); SiT, and
    a DiT with a flow-matching scheduler, the velocity of its straight path. All others are read without their output
    layer, as are truncated models. Raises InputError for a prediction_type that is not supported here.
    """
    if not isinstance(backbone, DiT) or not backbone.whole:
        return None
    meant = backbone.schedule(schedule)
    if isinstance(meant, PathSchedule):
        return partial(on_path, meant)
    if isinstance(meant, FlowSchedule):
        if meant.config.get("prediction_type", "flow_prediction") != "flow_prediction":
            raise InputError(
                f"got prediction_type {meant.config['prediction_type']!r} on the straight path, expected "
                "flow_prediction; correct the scheduler"
            )
        return partial(towards_noise, steps=meant.steps)
    return Denoising(meant.config, device).noised


def on_path(meant: PathSchedule, x0: Tensor) -> Noised:
    """x = alpha·x0 + sigma·eps at uniform times of the path, and its velocity (SiT, arXiv 2401.08740)."""
    tau, eps = 1 - torch.rand(len(x0), device=x0.device), torch.randn_like(x0)
    alpha, sigma, by_alpha, by_sigma = (value[:, None, None, None] for value in meant.coefficients(tau))
    return Noised(alpha * x0 + sigma * eps, meant.fed(tau), by_alpha * x0 + by_sigma * eps, alpha.flatten().square())


def towards_noise(x0: Tensor, steps: int) -> Noised:
    """The straight path as in diffusers: x = (1 - sigma)·x0 + sigma·eps, fed `steps`·sigma; velocity eps - x0."""
    sigma, eps = torch.rand(len(x0), device=x0.device), torch.randn_like(x0)
    part = sigma[:, None, None, None]
    return Noised((1 - part) * x0 + part * eps, steps * sigma, eps - x0, (1 - sigma).square())


def joint_loss(
    task: Tensor,
    model: TapModel,
    pixels: Tensor,
    noising: Noising,
    rng: np.random.Generator,
    recipe: Recipe,
    team: Team = ALONE,
) -> Tensor:
    """The task's loss plus `recipe.denoising` times the denoising loss, so that the backbone stays a denoiser.

    Secondary texts about A-SelecT describe such a joint loss without its weight or interval, and the paper itself keeps
    its backbone frozen. Weight and interval are this project's choice.
    """
    return task + recipe.denoising * denoising_loss(model, pixels, noising, rng, recipe, team)


def denoising_loss(
    model: TapModel,
    pixels: Tensor,
    noising: Noising,
    rng: np.random.Generator,
    recipe: Recipe,
    team: Team = ALONE,
) -> Tensor:
    """The denoising loss on small windows of the clean inputs of pixels (N, 3, H, W), cheaper than whole frames.

    A window is `recipe.window` wide and high in units of the model's input: pixels, or latents of the frozen encoder.
    The model is conditioned as in deployment. Windows and noise depend only on `rng`.
    The processes of a `team` share the windows: the loss is the mean of theirs, and each gets that of its own windows.
    """
    backbone, count = cast(DiT, model.backbone), recipe.denoising_windows
    with torch.no_grad():
        x0 = whole_rows(team, model.encoder.x0(part_of(team, pixels[:count])), len(pixels[:count]))
    frame = (x0.shape[2], x0.shape[3])
    positions, corners, side = window_positions(backbone, rng, recipe.window, frame, count)
    windows = torch.stack([x0[i % len(x0), :, y : y + side, x : x + side] for i, (y, x) in enumerate(corners)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        noised = Noised(*(part_of(team, rows) for rows in noising(windows)))
    mine = len(noised.x)
    if not mine:
        return x0.new_zeros(())
    label = expand(model.condition, mine, x0.device)["label"]
    with reduced(x0.device):
        error = prediction_error(backbone, noised, label, part_of(team, positions).to(x0.device))
    return error * (mine * team.size / count)


def _reach(model: TapModel) -> int:
    """Number of blocks that the taps depend on; a `hidden` tap needs only the input of its block."""
    return max(tap.block + (tap.component != "hidden") for tap in model.taps)


def _linears(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield (parent module, name in it, layer) for every linear layer below `root`."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, name, child


def _check(how: Unfreeze, most: int, why: str) -> None:
    if how.count > most:
        expected = f"at most {how.kind}:{most}" if most else "all"
        raise InputError(f"got {how} to unfreeze, expected {expected}, because {why}; change it", parameter="unfreeze")
