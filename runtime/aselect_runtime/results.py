"""The data that the pipeline passes on: captured frames and results."""

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
from aselect_runtime.frames import NEAREST, Frame, placement, restore, stretched
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest
from aselect_runtime.rules import Event, Zone

Arrays = Mapping[str, NDArray[Any]]

TOP = 5
"""Number of classes that a classification result reports."""


@dataclass(frozen=True)
class SourceInfo:
    """A source of frames: a printable name (without credentials), nominal frames per second, and whether it is live."""

    name: str
    fps: float
    live: bool = False
    """A live source drops frames that cannot be processed in time; any other delivers every frame."""


@dataclass(frozen=True)
class Captured:
    """One frame, uint8 [H, W, 3] BGR, with its index in its source; created when the frame arrives."""

    frame: Frame
    index: int
    label: str
    """A name for files made from this frame: a relative path without suffix."""
    source: SourceInfo
    t_capture: float = field(default_factory=time.time)
    """Unix time of arrival, for display and logs: it jumps when the system clock is set."""
    t_monotonic: float = field(default_factory=time.monotonic)
    """Time of arrival on the monotonic clock in seconds, for durations between frames."""
    file: str | None = None
    """The image file that it was read from, relative to the given folder; None for videos and live sources."""
    position: float | None = None
    """Seconds from the beginning of a video."""

    @property
    def seconds(self) -> float:
        """Time on the source's clock. A video is read faster than it plays, so its position is used.

        Of a source that is neither live nor states positions, it follows from the rate, if there is one.
        """
        if not self.source.live and self.position is not None:
            return self.position
        return self.t_monotonic if self.source.live or not self.source.fps > 0 else self.index / self.source.fps


MEMORY = SourceInfo("memory", fps=0.0)
"""The source of frames that were given to a model as arrays."""


@dataclass(frozen=True)
class Result:
    """The model's output for one frame.

    Segmentation has `class_map`, `confidence` and `areas`, classification has `top`; reading an attribute of the other
    task raises InputError.
    """

    captured: Captured
    outputs: Arrays
    """The model's outputs by name, without the batch axis, at the model's resolution."""
    manifest: Manifest
    t_result: float
    """Unix time at which inference was complete."""
    latency_ms: Mapping[str, float]
    """Milliseconds by stage: `capture`, `resize`, `wait` (for the session) and `infer` in a stream; otherwise `resize`
    and `infer`. A repeated result has no `infer`."""
    health: Health = field(default_factory=Health)
    stream: int = 0
    """Index of the input in the run, from 0."""
    pixels: Frame | None = None
    """The model input, uint8 [h, w, 3]."""
    repeated: bool = False
    """Whether the outputs are those of an earlier frame, because nothing moved."""
    zones: tuple[Zone, ...] = ()
    """The zones that the rules for this input use."""
    events: tuple[Event, ...] = ()
    """The latest events of the run, of all inputs, in order of their start; without frames."""
    look: Look = PLAIN
    """How `plot` draws it."""

    @property
    def frame(self) -> Frame:
        """The captured frame, BGR, uint8 [H, W, 3]."""
        return self.captured.frame

    @cached_property
    def class_map(self) -> Frame:
        """The class of each pixel of the frame, uint8 [H, W]: an index into `manifest.classes`."""
        return restore(self._output("class_map"), self.frame.shape, self.manifest.resize)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """The model's confidence at each pixel of the frame, float32 [H, W], 0 to 1.

        The model outputs one value per cell of several pixels; each pixel has the value of its cell.
        """
        height, width = self._output("class_map").shape
        fine = stretched(self._output("confidence"), (height, width), NEAREST)
        return restore(fine, self.frame.shape, self.manifest.resize)

    @property
    def model_class_map(self) -> Frame:
        """The class map at the model's resolution without letterbox borders, uint8 [h, w]."""
        whole = self._output("class_map")
        top, left, height, width = placement(self.frame.shape[:2], whole.shape, self.manifest.resize)
        return whole[top : top + height, left : left + width]

    @cached_property
    def areas(self) -> dict[str, float]:
        """The share of the frame that each class covers, by name; all classes are listed, the shares sum to 1."""
        inner, classes = self.model_class_map, self.manifest.classes
        counts = cv2.calcHist([inner], [0], None, [len(classes)], [0, len(classes)]).ravel()
        return {item.name: round(int(count) / inner.size, 5) for item, count in zip(classes, counts, strict=True)}

    @cached_property
    def top(self) -> dict[str, float]:
        """The TOP classes with the highest scores (0 to 1), highest first."""
        scores = self._output("scores")
        best = np.argsort(-scores, kind="stable")[:TOP]
        return {self.manifest.classes[index].name: round(float(scores[index]), 5) for index in best}

    def plot(self, painter: Painter | None = None) -> Frame:
        """The frame with class colours and a legend, or with the top classes as bars: BGR, uint8 [H', W', 3].

        Small and very large frames are scaled, see `display_size`. Pass the same `painter` for many results to reuse
        its buffers, which saves time; a painter is for one thread.
        """
        painter = painter or Painter(self.manifest)
        if self.manifest.task == "seg":
            return painter.paint(self.frame, self.areas, self.model_class_map, self.look)
        return painter.paint(self.frame, self.top)

    def to_dict(self) -> dict[str, Any]:
        """`t_result` (Unix seconds), `latency_ms`, and `areas` or `top`, as JSON types.

        A result of a stream also has `frame` (its index), `source` and `t_capture`, and `repeated` if it is repeated;
        that of an image also `file` (its name), that of a video `position` (seconds from the beginning).
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
                f"got the attribute {name}, expected an output of this model ({', '.join(self.outputs)}); "
                "segmentation has class_map, confidence and areas, classification has top"
            )
        return self.outputs[name]


def check_answer(captured: Captured, outputs: Arrays, manifest: Manifest) -> None:
    """Raise EngineError for invalid outputs: a class that does not exist, or scores that are not finite."""
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
