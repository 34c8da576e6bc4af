"""Bundles with small random weights, for the tests of exporting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle import save_bundle
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head, taps_for
from aselect_runtime.records import (
    BackboneSource,
    Bundle,
    ClassInfo,
    HeadKind,
    HeadSpec,
    Noise,
    Resize,
    Selection,
    Tap,
    Task,
)
from aselect_runtime.scenes import CLASSES, COLOURS

SIZE = (48, 64)
DEPTH = 2
Change = Callable[[TapModel], None]


def write_bundle(
    folder: Path,
    task: Task = "seg",
    change: Change = lambda _: None,
    kind: HeadKind | None = None,
    heads: int = 2,
) -> Path:
    """A bundle with random weights that answers with several classes; `change` alters the weights before saving.

    The head is `conv` for segmentation and `linear` for classification, if `kind` says nothing else. The backbone is
    16 times `heads` wide.
    """
    torch.manual_seed(0)
    config = DiTConfig(
        heads, 16, in_channels=3, num_layers=DEPTH + 1, sample_size=8, patch_size=8, num_embeds_ada_norm=4
    )
    backbone = DiT(config)
    spec = HeadSpec(kind=kind or ("conv" if task == "seg" else "linear"), channels=16)
    taps = taps_for(spec, (Tap.parse(f"{DEPTH}.query"),))
    head = build_head(spec, task, [config.width] * len(taps), len(CLASSES))
    noise = Noise(alpha=0.99, sigma=0.1, model_timestep=50.0)
    model = TapModel(backbone, head, noise, taps, SIZE, 0).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=2.0 / weight[0].numel() ** 0.5 if "head" in name else 0.1)
    change(model)
    record = Bundle(
        task=task,
        classes=tuple(ClassInfo(name=n, colour=c) for n, c in zip(CLASSES, COLOURS, strict=True)),
        imgsz=SIZE,
        resize=Resize(),
        backbone=BackboneSource(family="dit", config=config.to_json(), source="random", file="backbone.safetensors"),
        taps=taps,
        noise=noise,
        head=spec,
    )
    save_bundle(folder, record, Selection(backbone="random", noise=noise, tap=taps[-1], strategy="manual"), model)
    return folder


def command(verb: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a console entry point in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["aselect", *arguments])
    with pytest.raises(SystemExit) as ended:
        verb()
    return int(ended.value.code or 0)


def lift_tokens(model: TapModel) -> None:
    """A common offset of all tokens: LayerNorm takes it away, but FP16 sums have lost the rest to it by then."""
    assert isinstance(model.backbone, DiT)
    assert model.backbone.patch_embed.bias is not None
    model.backbone.patch_embed.bias.fill_(200.0)


def lift_logits(model: TapModel) -> None:
    """A common offset of all logits: nothing changes, except that FP16 cannot tell them apart any more."""
    model.head.body.layers[-1].bias.fill_(8000.0)  # type: ignore[index, union-attr]


def grow_mlp(model: TapModel) -> None:
    """An MLP whose output overflows FP16; the norm that reads it brings it back."""
    block = model.backbone.get_submodule("blocks.0")
    block.get_parameter("mlp_in.weight").mul_(1e3)
    block.get_parameter("mlp_out.weight").mul_(1e4)
