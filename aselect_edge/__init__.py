"""Layer 1, the workstation: backbones, the fold, selection, heads and training.

    selection = select("shipped", "camvid", images=64, imgsz=(144, 192))
    outcome = train("shipped", selection, "camvid", "bundle", imgsz=(144, 192))
    bundle = load_bundle(Path("bundle"))

`select_tap` and `train_bundle` accept the same options as one record each. Importing this package does not import
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_edge.api import select, train
    from aselect_edge.backbones import load_backbone
    from aselect_edge.bundle import load_bundle
    from aselect_edge.distillation import distil
    from aselect_edge.selection import select_tap
    from aselect_edge.training import train_bundle

__version__ = "0.1.0"
__all__ = ["__version__", "distil", "load_backbone", "load_bundle", "select", "select_tap", "train", "train_bundle"]

_HOMES = {
    "distil": "distillation",
    "load_backbone": "backbones",
    "load_bundle": "bundle",
    "select": "api",
    "select_tap": "selection",
    "train": "api",
    "train_bundle": "training",
}

__getattr__ = attributes(__name__, _HOMES)
