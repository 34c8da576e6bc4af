"""INT8 compared with FP32 on the shape of DiT-XL/2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_export.graph import trace, without_logits
from aselect_runtime.records import HeadSpec, Noise, Tap
from benchmarks.int8_quantisers import run_row
from benchmarks.latency import latencies

XL_BLOCKS = 10
"""Blocks of the graph of tap 9.query."""


def xl_figures(blocks: int, runs: int, folder: Path) -> dict[str, Any]:
    """FP32 and INT8 on a graph with the blocks of DiT-XL/2 at 256 tokens, random weights, in interleaved rounds."""
    folder.mkdir()
    size = (256, 256)
    torch.manual_seed(0)
    config = DiTConfig(16, 72, in_channels=3, num_layers=blocks, patch_size=16, sample_size=256, num_embeds_ada_norm=2)
    backbone = DiT(config, tied=True)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [config.width], 11)
    tap = Tap(block=blocks - 1, component="query")
    model = TapModel(backbone, head, Noise(alpha=1, sigma=0, model_timestep=0), (tap,), size, None)
    graphs = {"fp32": folder / "fp32.onnx", "ours": folder / "ours.onnx"}
    without_logits(trace(model.eval().deployed(), "seg", 1, size, folder)).write(graphs["fp32"])
    del model, backbone
    frames = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    np.savez(folder / "frames.npz", frames=frames)
    cost = run_row(Path(sys.executable), "ours", graphs["fp32"], folder / "frames.npz", graphs["ours"])
    if isinstance(cost, str):
        sys.exit(f"XL: {cost}")
    found = latencies(graphs, frames[:1], runs)
    return {
        "blocks": blocks,
        "latency_ms": found,
        "bytes": {row: path.stat().st_size for row, path in graphs.items()},
        "calibration_4_frames": cost,
    }
