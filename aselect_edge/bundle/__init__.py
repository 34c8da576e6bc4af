"""A bundle: the folder that training writes and export reads, and the complete model in it, pixels to logits."""

from aselect_edge.bundle.distilled import DistilledTapModel
from aselect_edge.bundle.folder import (
    RECORD,
    SHIPPED,
    LoadedBundle,
    load_bundle,
    save_bundle,
    save_distilled,
    tap_model,
)
from aselect_edge.bundle.model import FoldedTapModel, TapModel, upsample
from aselect_edge.fold import fused

__all__ = [
    "RECORD",
    "SHIPPED",
    "DistilledTapModel",
    "FoldedTapModel",
    "LoadedBundle",
    "TapModel",
    "fused",
    "load_bundle",
    "save_bundle",
    "save_distilled",
    "tap_model",
    "upsample",
]
