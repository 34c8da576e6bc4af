"""A bundle: the folder that training writes and export reads, and the complete model in it, pixels to logits."""

from aselect_edge.bundle.folder import RECORD, SHIPPED, LoadedBundle, load_bundle, save_bundle, tap_model
from aselect_edge.bundle.model import FoldedTapModel, TapModel, fused, upsample

__all__ = [
    "RECORD",
    "SHIPPED",
    "FoldedTapModel",
    "LoadedBundle",
    "TapModel",
    "fused",
    "load_bundle",
    "save_bundle",
    "tap_model",
    "upsample",
]
