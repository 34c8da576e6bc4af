"""What travels through the pipeline: frames on the way in, results on the way out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import EngineError
from aselect_runtime.frames import Frame, placement
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest

Arrays = Mapping[str, NDArray[Any]]

TOP = 5
"""How many classes of a classification are reported."""


@dataclass(frozen=True)
class SourceInfo:
    """Where frames come from: a printable name (without credentials), nominal frames per second, and its kind."""

    name: str
    fps: float
    live: bool = False
    """A live source drops frames that nobody has time for; any other delivers every frame."""


@dataclass(frozen=True)
class Captured:
    """One frame, uint8 [H, W, 3] BGR, with its number in its source; made when the frame arrives."""

    frame: Frame
    index: int
    label: str
    """A name for files made from this frame: a relative path without suffix."""
    source: SourceInfo
    t_capture: float = field(default_factory=time.time)
    """Unix time of arrival, for people and logs: it jumps when the clock is set."""
    t_monotonic: float = field(default_factory=time.monotonic)
    """Time of arrival on a clock that never jumps, for durations between frames."""


@dataclass(frozen=True)
class Result:
    """What the model says about one frame: its outputs without the batch axis, and how long each stage took."""

    captured: Captured
    outputs: Arrays
    t_result: float
    """Unix time at which the answer was there."""
    latency_ms: Mapping[str, float]
    """`capture`, `resize`, `wait` (for the session) and `infer`."""
    health: Health = field(default_factory=Health)
    stream: int = 0
    """Which input of the run it came from, counted from 0."""
    pixels: Frame | None = None
    """The model input that was answered, uint8 [h, w, 3]."""


def check_answer(captured: Captured, outputs: Arrays, manifest: Manifest) -> None:
    """Raise EngineError if the outputs are no answer: a class that does not exist, or scores that are not finite."""
    where = f"frame {captured.index}"
    if manifest.task == "seg":
        largest, classes = int(outputs["class_map"].max()), len(manifest.classes)
        if largest >= classes:
            raise EngineError(
                f"{where}: got the class {largest} from the model, expected 0 to {classes - 1} of its {classes} "
                "classes; export the model again"
            )
    elif not np.isfinite(outputs["scores"]).all():
        raise EngineError(
            f"{where}: got scores that are not finite, expected probabilities; "
            "use a higher precision (the folder's model.mixed.onnx or model.fp32.onnx)"
        )


def class_map(result: Result, manifest: Manifest) -> Frame:
    """The class of each model pixel, uint8 [h, w], cropped to the part that shows the frame (no letterbox border)."""
    whole = result.outputs["class_map"]
    top, left, height, width = placement(result.captured.frame.shape[:2], whole.shape, manifest.resize)
    return whole[top : top + height, left : left + width]


def areas(result: Result, manifest: Manifest) -> dict[str, float]:
    """The share of the frame that each class covers; every class is named, the shares sum to one."""
    inner = class_map(result, manifest)
    counts = cv2.calcHist([inner], [0], None, [len(manifest.classes)], [0, len(manifest.classes)]).ravel()
    return {item.name: round(int(count) / inner.size, 5) for item, count in zip(manifest.classes, counts, strict=True)}


def top_scores(result: Result, manifest: Manifest) -> dict[str, float]:
    """The best classes with their scores, best first."""
    scores = result.outputs["scores"]
    best = np.argsort(-scores, kind="stable")[:TOP]
    return {manifest.classes[index].name: round(float(scores[index]), 5) for index in best}
