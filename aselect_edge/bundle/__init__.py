"""A bundle: the folder that training writes and export reads, and the whole model inside it, pixels to logits."""

from aselect_edge.bundle.folder import RECORD, SHIPPED, LoadedBundle, load_bundle, perception, save_bundle
from aselect_edge.bundle.model import FoldedPerception, Perception, fused, upsample

__all__ = [
    "RECORD",
    "SHIPPED",
    "FoldedPerception",
    "LoadedBundle",
    "Perception",
    "fused",
    "load_bundle",
    "perception",
    "save_bundle",
    "upsample",
]
