"""The models of the family benchmark: published shapes, random weights, unfolded and folded.

The unfolded model is the project's reference: for SD3, PixArt, PRX and Sana diffusers' own class without its output
layer, for the others the module that the checkpoints are read into.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aselect_edge.backbones.building import build, fill_backbone, own_places
from aselect_edge.backbones.family import Affine, Backbone, Condition
from aselect_edge.backbones.prompt import CONDITION, load_condition, save_condition
from aselect_edge.backbones.registry import family_class
from aselect_edge.backbones.store import WeightStore
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_runtime.records import Noise, Tap
from benchmarks.graph_models import randomised
from benchmarks.shapes import PROMPT
from benchmarks.shapes import SHAPES as SCANNED

WEIGHTS = "backbone.safetensors"
TIMESTEP = 50.0
XL = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28}


@dataclass(frozen=True)
class Shape:
    """One model at one size."""

    title: str
    config: dict[str, Any]
    size: tuple[int, int]
    """Height and width of the backbone's input."""
    bytes_goal: float
    """Largest share of the plain export's bytes that ours is meant to have."""
    prompt: tuple[int, int] | None = None
    """Tokens and channels of the prompt's embeddings; None for a class label."""
    valid: int | None = None
    """Index of the one token that an empty prompt's mask counts; None without a mask."""
    note: str = ""


EACH_BLOCK, ONE_THIRD, SHARED = 0.70, 0.60, 0.90
"""Goals: adaLN has weights in each block; a third of its weights; one adaLN for all blocks, or one without shift."""
SHAPES = {  # by family
    "dit": Shape("DiT-XL/2, 256 px", {**XL, "out_channels": 8}, (32, 32), EACH_BLOCK),
    "sit": Shape(
        "SiT-XL/2 with qk-norm (REPA), 256 px",
        {**XL, "out_channels": 8, "frequency_shift": 0, "qk_norm": True},
        (32, 32),
        EACH_BLOCK,
    ),
    "lightningdit": Shape(
        "LightningDiT-XL/1, 256 px, no shift",
        {
            **XL,
            "in_channels": 32,
            "sample_size": 16,
            "patch_size": 1,
            "num_embeds_ada_norm": 1000,
            "mlp_width": 3072,
            "qk_norm": True,
            "shift": False,
        },
        (16, 16),
        SHARED,
    ),
    "jit": Shape(
        "JiT-B/16, 256 px",
        {
            "num_attention_heads": 12,
            "attention_head_dim": 64,
            "num_layers": 12,
            "in_channels": 3,
            "sample_size": 256,
            "patch_size": 16,
            "num_embeds_ada_norm": 1000,
            "mlp_width": 2048,
            "qk_norm": True,
            "bottleneck": 128,
            "context_tokens": 32,
            "context_start": 4,
        },
        (256, 256),
        EACH_BLOCK,
    ),
    "sd3": Shape(
        "SD3-medium, 512 px",
        {**SCANNED["SD3-medium, 512x512"][1], "num_layers": 12},
        (64, 64),
        ONE_THIRD,
        prompt=(PROMPT, 4096),
        note="12 of 24 blocks, for memory",
    ),
    "pixart": Shape(
        "PixArt-XL/2, 512 px",
        {
            **XL,
            "in_channels": 4,
            "out_channels": 8,
            "cross_attention_dim": 1152,
            "sample_size": 64,
            "patch_size": 2,
            "caption_channels": 4096,
        },
        (64, 64),
        SHARED,
        prompt=(120, 4096),
        valid=0,
    ),
    "prx": Shape(
        "PRX-1.2B, 512 px",
        {
            "depth": 16,
            "in_channels": 16,
            "patch_size": 2,
            "context_in_dim": 2304,
            "hidden_size": 1792,
            "num_heads": 28,
        },
        (64, 64),
        EACH_BLOCK,
        prompt=(256, 2304),
        valid=255,
    ),
    "sana": Shape(
        "Sana-0.6B, 512 px",
        {
            "in_channels": 32,
            "out_channels": 32,
            "num_attention_heads": 36,
            "attention_head_dim": 32,
            "num_layers": 28,
            "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72,
            "cross_attention_dim": 1152,
            "caption_channels": 2304,
            "sample_size": 16,
            "patch_size": 1,
        },
        (16, 16),
        SHARED,
        prompt=(300, 2304),
        valid=0,
    ),
}


def tap_of(key: str) -> Tap:
    """The query at half depth."""
    config = SHAPES[key].config
    return Tap(block=config["depth" if "depth" in config else "num_layers"] // 2, component="query")


def noise_of(key: str) -> Noise:
    """A low noise level of the family's own schedule."""
    (noise,) = _empty(key).default_schedule().levels([TIMESTEP])
    return noise


def make(key: str, folder: Path, whole: bool = True) -> None:
    """Write random weights, float16, and the condition; without `whole` only the blocks that the tap needs."""
    default, depth = torch.get_default_dtype(), None if whole else tap_of(key).block + 1
    torch.set_default_dtype(torch.float16)
    try:
        model: Backbone = randomised(family_class(key).from_json(SHAPES[key].config, depth).half())
    finally:
        torch.set_default_dtype(default)
    state = model.state_dict()
    save_file({theirs: state[ours].contiguous() for ours, theirs in model.keys().items()}, folder / WEIGHTS)
    if SHAPES[key].prompt is not None:
        save_condition(_prompt(SHAPES[key]), folder / CONDITION)


def _prompt(shape: Shape) -> dict[str, Tensor]:
    assert shape.prompt is not None
    condition = {"prompt": torch.randn(1, *shape.prompt)}
    if shape.valid is None:
        return condition | {"pooled": torch.randn(1, shape.config["pooled_projection_dim"])}
    return condition | {"mask": (torch.arange(shape.prompt[0]) == shape.valid).long()[None]}


def _empty(key: str, depth: int | None = None) -> Backbone:
    return build(family_class(key), SHAPES[key].config, depth)


def load(key: str, folder: Path, depth: int | None = None, lean: bool = False) -> tuple[Backbone, Condition]:
    """The unfolded model, or its first `depth` blocks, and its condition."""
    model = _empty(key, depth)
    fill_backbone(model, WeightStore([folder / WEIGHTS], own_places(model)), lean=lean)
    prompted = SHAPES[key].prompt is not None
    return model, load_condition(folder / CONDITION) if prompted else model.condition()


def values(key: str) -> Tensor:
    """The same clean x0 (1, C, h, w) in every process."""
    model = _empty(key, 1)
    return torch.randn(1, model.channels, *SHAPES[key].size, generator=torch.Generator().manual_seed(1))


def noisy(key: str) -> tuple[Tensor, Tensor]:
    """The unfolded model's input for `values`, and its timestep (1,)."""
    x0, noise = values(key), noise_of(key)
    eps = fixed_noise(tuple(x0.shape[1:]), 0)  # type: ignore[arg-type]
    return noise.alpha * x0 + noise.sigma * eps, torch.tensor([noise.model_timestep])


class Unfolded(nn.Module):
    """(x, timestep) -> the tapped tensor and, if `whole`, the output of the last block's MLP: all blocks are run."""

    def __init__(self, key: str, folder: Path, whole: bool = False, lean: bool = False) -> None:
        super().__init__()
        tap = tap_of(key)
        self.model, condition = load(key, folder, None if whole else tap.block + 1, lean)
        self.condition = dict(condition)
        self.model.check_condition(condition)
        # Checked once: a check of values cannot be traced.
        self.model.check_condition = lambda _: None  # type: ignore[method-assign, assignment]
        self.taps = (tap, Tap(block=self.model.depth - 1, component="mlp")) if whole else (tap,)

    def forward(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        found = self.model.features(x, timestep, self.condition, self.taps)
        return tuple(found[tap] for tap in self.taps)


class Ours(nn.Module):
    """The folded model, from `values` to its tap (1, T, D)."""

    def __init__(self, key: str, folder: Path) -> None:
        super().__init__()
        tap = tap_of(key)
        model, condition = load(key, folder, tap.block + 1, lean=True)
        spec = FoldSpec.of(
            model, noise_of(key), (tap,), SHAPES[key].size, noise_seed=0, condition=condition, affine=Affine()
        )
        self.backbone = fold(model, spec)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature.flatten(1, 2) for feature in self.backbone(x))
