"""Seconds and peak memory of an HFR scan at the shapes of published models; random weights, so only the cost counts.

Without their autoencoders: latents are drawn. Each model runs in a separate process, whose peak memory is measured.
Run through `python -m benchmarks.selection shapes`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from aselect_edge.backbones import Backbone, Encoder, LoadedBackbone
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.family import Affine
from aselect_edge.backbones.sd3 import SD3
from aselect_edge.selection import STRATEGIES, Request, Settings
from aselect_edge.selection.evidence import Evidence, Images
from aselect_edge.selection.run import prepare_scan
from aselect_edge.team import Team
from aselect_runtime.records import DataFingerprint
from benchmarks.process import run

SHAPES: dict[str, tuple[type[Backbone], dict[str, Any], int]] = {
    "DiT-XL/2, 256x256": (
        DiT,
        {
            "_class_name": "DiTTransformer2DModel",
            "num_layers": 28,
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "in_channels": 4,
            "out_channels": 8,
            "sample_size": 32,
            "patch_size": 2,
            "num_embeds_ada_norm": 1000,
        },
        256,
    ),
    "SD3-medium, 512x512": (
        SD3,
        {
            "_class_name": "SD3Transformer2DModel",
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "in_channels": 16,
            "out_channels": 16,
            "sample_size": 128,
            "patch_size": 2,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        512,
    ),
}
PROMPT = 77 + 256
"""Tokens of SD3's empty prompt: the two CLIPs are concatenated by channel, then come T5's tokens."""


class Latents(Encoder):
    """Replaces an autoencoder of stride 8: noise of the latents' shape."""

    stride, affine = 8, Affine()

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = self.size(*pixels.shape[2:])
        return torch.randn(len(pixels), self.channels, height, width, device=pixels.device)


def measure(sigmas: int, images: int, device: str) -> dict[str, Any]:
    """Seconds and peak memory of each shape."""
    figures = {}
    for name in SHAPES:
        command = [sys.executable, "-m", "benchmarks.selection", "shape", name, "--sigmas", str(sigmas)]
        command += ["--images", str(images), "--device", device]
        done = run(command)
        if done.code:
            sys.exit(f"{name}: {done.errors}")
        figures[name] = json.loads(done.output.splitlines()[-1]) | {"peak memory [MB]": done.peak_mb}
        print(f"{name}: {figures[name]}", flush=True)
    return {"sigmas": sigmas, "images": images, "device": device, "figures": figures}


def scan_one(name: str, sigmas: int, images: int, device: str) -> None:
    """One shape in this process; prints its figures as the last line."""
    kind, config, side = SHAPES[name]
    with torch.device(device):
        model = kind.from_json(config).to(device).eval()
        model.requires_grad_(False)
    condition = (
        {"prompt": torch.randn(1, PROMPT, 4096), "pooled": torch.randn(1, 2048)}
        if kind is SD3
        else dict(model.condition())
    )
    backbone = LoadedBackbone(model, Latents(model.channels), condition, kind.schedule(None), name)
    frame = torch.zeros(side, side, 3, dtype=torch.uint8).numpy()
    reads = tuple((lambda: frame) for _ in range(images))
    request = Request(imgsz=(side, side), timesteps=backbone.schedule.candidates(sigmas), device=torch.device(device))
    scan = prepare_scan(backbone, request, Team(), lambda _what, _share: None)
    evidence = Evidence(Images(reads, DataFingerprint(images=images, sha256="0" * 64)))
    start = time.perf_counter()
    STRATEGIES["hfr"].choose(scan, evidence, Settings())
    figures = {"seconds": time.perf_counter() - start, "candidates": len(scan.levels) * len(scan.taps)}
    if device.startswith("cuda"):
        figures["peak device memory [MB]"] = torch.cuda.max_memory_allocated() / 1e6
    print(json.dumps(figures))
