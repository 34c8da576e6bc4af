"""What travels through the pipeline: frames on the way in, results on the way out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aselect_runtime.drawing import PLAIN, Look, Painter
from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.frames import Frame, placement, restore, stretched
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest
from aselect_runtime.rules import Event, Zone

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
    file: str | None = None
    """The file that it was read from, where each file is one image; relative to the folder that was given."""
    position: float | None = None
    """Seconds from the beginning of a video."""


MEMORY = SourceInfo("memory", fps=0.0)
"""Of frames that were given to a model as arrays: they come from no stream."""


@dataclass(frozen=True)
class Result:
    """What the model says about one frame.

    Segmentation has `class_map`, `confidence` and `areas`, classification has `top`; asking for what the task does
    not have raises InputError.
    """

    captured: Captured
    outputs: Arrays
    """The model's outputs without the batch axis, at the model's size."""
    manifest: Manifest
    t_result: float
    """Unix time at which the answer was there."""
    latency_ms: Mapping[str, float]
    """Of a stream `capture`, `resize`, `wait` (for the session) and `infer`; otherwise `resize` and `infer`. A repeated
    answer has no `infer`."""
    health: Health = field(default_factory=Health)
    stream: int = 0
    """Which input of the run it came from, counted from 0."""
    pixels: Frame | None = None
    """The model input that was answered, uint8 [h, w, 3]."""
    repeated: bool = False
    """Whether the answer is that of an earlier frame, since nothing moved."""
    zones: tuple[Zone, ...] = ()
    """The zones that rules for this input use."""
    events: tuple[Event, ...] = ()
    """The latest events of the run, of all inputs, in the order of their starts; without frames."""
    look: Look = PLAIN
    """How `plot` paints it."""

    @property
    def frame(self) -> Frame:
        """The frame as it came, BGR, uint8 [H, W, 3]."""
        return self.captured.frame

    @cached_property
    def class_map(self) -> Frame:
        """The class of each pixel of the frame, uint8 [H, W]: an index into `manifest.classes`."""
        return restore(self._output("class_map"), self.frame.shape, self.manifest.resize)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """How sure the model is of each pixel of the frame, float32 [H, W], 0 to 1.

        The model says it for cells of several pixels; each pixel has the confidence of its cell.
        """
        height, width = self._output("class_map").shape
        fine = stretched(self._output("confidence"), (height, width), cv2.INTER_NEAREST)
        return restore(fine, self.frame.shape, self.manifest.resize)

    @property
    def model_class_map(self) -> Frame:
        """The class of each model pixel that shows a part of the frame (no letterbox border), uint8 [h, w]."""
        whole = self._output("class_map")
        top, left, height, width = placement(self.frame.shape[:2], whole.shape, self.manifest.resize)
        return whole[top : top + height, left : left + width]

    @cached_property
    def areas(self) -> dict[str, float]:
        """The share of the frame that each class covers; every class is named, the shares sum to one."""
        inner, classes = self.model_class_map, self.manifest.classes
        counts = cv2.calcHist([inner], [0], None, [len(classes)], [0, len(classes)]).ravel()
        return {item.name: round(int(count) / inner.size, 5) for item, count in zip(classes, counts, strict=True)}

    @cached_property
    def top(self) -> dict[str, float]:
        """The TOP best classes with their scores (0 to 1), best first."""
        scores = self._output("scores")
        best = np.argsort(-scores, kind="stable")[:TOP]
        return {self.manifest.classes[index].name: round(float(scores[index]), 5) for index in best}

    def plot(self, painter: Painter | None = None) -> Frame:
        """The frame with the classes' colours and a legend, or with the best classes as bars: BGR, uint8 [H', W', 3].

        Small and very large frames are scaled, see `display_size`. A `painter` that is given is used again from
        result to result, which saves time; for one thread.
        """
        painter = painter or Painter(self.manifest)
        if self.manifest.task == "seg":
            return painter.paint(self.frame, self.areas, self.model_class_map, self.look)
        return painter.paint(self.frame, self.top)

    def to_dict(self) -> dict[str, Any]:
        """`t_result` (Unix seconds), `latency_ms`, and `areas` or `top`, as JSON types.

        A result of a stream has `frame` (its number), `source` and `t_capture` before them, a repeated one `repeated`;
        that of an image also `file` (its name), that of a video `position` (seconds from its beginning).
        """
        captured = self.captured
        origin: dict[str, Any] = {"frame": captured.index, "source": captured.source.name}
        if captured.file is not None:
            origin["file"] = captured.file
        if captured.position is not None:
            origin["position"] = captured.position
        origin["t_capture"] = round(captured.t_capture, 4)
        return {
            **({} if captured.source is MEMORY else origin),
            "t_result": round(self.t_result, 4),
            "latency_ms": dict(self.latency_ms),
            **({"repeated": True} if self.repeated else {}),
            **({"areas": self.areas} if self.manifest.task == "seg" else {"top": self.top}),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON on one line, as aselect-run writes it."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def _output(self, name: str) -> NDArray[Any]:
        if name not in self.outputs:
            raise InputError(
                f"got a question for {name}, expected one of what this model answers ({', '.join(self.outputs)}); "
                "segmentation has class_map, confidence and areas, classification has top"
            )
        return self.outputs[name]


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
