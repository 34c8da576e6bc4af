"""The immutable records that are passed between stages; each is also a readable JSON file.

Needs no torch, only NumPy and pydantic. Every record file has
`schema: "<kind>/<major>.<minor>"`. An older minor version loads (new fields have defaults), a newer minor or
another major is refused.
"""

from __future__ import annotations

from aselect_runtime.records.backbone import BackboneSource
from aselect_runtime.records.base import Finite, Frozen, Record, Sha256
from aselect_runtime.records.bundle import MOST_DRAWS, Bundle
from aselect_runtime.records.choice import Choice, Trial
from aselect_runtime.records.classes import Classes, ClassInfo, Colour, Task
from aselect_runtime.records.clean import Clean, CleanLevels
from aselect_runtime.records.data import DataFingerprint
from aselect_runtime.records.distilled import Distilled, EncoderCost, EncoderKind, Replacement, StemSpec
from aselect_runtime.records.engine import Engine
from aselect_runtime.records.head import HEAD_KINDS, HeadKind, HeadSpec
from aselect_runtime.records.manifest import Manifest, Precision, Weights
from aselect_runtime.records.masks import MaskFolder
from aselect_runtime.records.massive import Massive
from aselect_runtime.records.noise import LevelWeight, Noise
from aselect_runtime.records.parity import Parity
from aselect_runtime.records.quantisation import LayerDecision, Quantisation
from aselect_runtime.records.report import Report
from aselect_runtime.records.resize import Resize
from aselect_runtime.records.selection import Cost, Score, Selection
from aselect_runtime.records.tap import COMPONENTS, Component, Tap
from aselect_runtime.records.tensors import Size, TensorSpec

__all__ = [
    "COMPONENTS",
    "HEAD_KINDS",
    "MOST_DRAWS",
    "BackboneSource",
    "Bundle",
    "Choice",
    "ClassInfo",
    "Classes",
    "Clean",
    "CleanLevels",
    "Colour",
    "Component",
    "Cost",
    "DataFingerprint",
    "Distilled",
    "EncoderCost",
    "EncoderKind",
    "Engine",
    "Finite",
    "Frozen",
    "HeadKind",
    "HeadSpec",
    "LayerDecision",
    "LevelWeight",
    "Manifest",
    "MaskFolder",
    "Massive",
    "Noise",
    "Parity",
    "Precision",
    "Quantisation",
    "Record",
    "Replacement",
    "Report",
    "Resize",
    "Score",
    "Selection",
    "Sha256",
    "Size",
    "StemSpec",
    "Tap",
    "Task",
    "TensorSpec",
    "Trial",
    "Weights",
]
