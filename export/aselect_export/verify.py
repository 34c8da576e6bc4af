"""Verification: a graph's answers on real frames, compared with torch.

The reference is the unfolded model in float32, with every stored block complete, so that one comparison covers the
fold, the truncation in the deepest block, the export and the precision. ONNX Runtime computes most FP16 in FP32 on a
CPU, so FP16 graphs are also compared with torch's float16, and the range of each of their FP16 tensors is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aselect_calibration.frames import video_frames
from aselect_calibration.weights import Graph
from aselect_edge.bundle.model import upsample
from aselect_edge.data import images_of
from aselect_edge.data.spread import evenly
from aselect_export.activations import record_spans
from aselect_export.graph import LOGITS
from aselect_export.precision import LIMIT, half_tensors
from aselect_runtime.frames import Frame, read_image, resize
from aselect_runtime.records import Parity, Resize, Task
from aselect_runtime.scenes import Street
from aselect_runtime.sessions.onnx import OnnxSession

Rung = Literal["fp32", "mixed", "fp16", "int8", "fp8", "int4"]
QUANTISED: frozenset[Rung] = frozenset({"int8", "fp8", "int4"})
FP32_ERROR = 1e-4
"""Limit for the fp32 graph: max |delta| / max |reference| of the logits."""
FP32_AGREEMENT = 0.999
HALF_AGREEMENT = 0.995
"""Minimum share of pixels (frames, for classification) with the same class."""
QUANTISED_AGREEMENT = 0.9
"""Catches only gross errors: quantised graphs are checked by the drop of their metric."""

NEAR = {"fp32": 0.0, "mixed": 1e-2, "fp16": 1e-2, "int8": 5e-2, "fp8": 5e-2, "int4": 5e-2}
"""Minimum difference, relative to the largest logit, between two classes of a frame for their order to count
(classification). Eight frames are only eight answers: rounding may change one that is nearly a tie in the reference."""

SCENE = (16, 4096)
"""Smallest and largest side, in pixels, at which a street is drawn; for other input sizes it is resized."""

LATENCY_RUNS = 8

OVERFLOW = float(np.finfo(np.float32).max)
"""Replaces the error of logits that are not finite, because JSON has no infinity."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to the verification frames."""

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    """[M, H, W] for segmentation, [M] for classification."""


@dataclass(frozen=True)
class Verdict:
    """The measurements of one rung."""

    rung: Rung
    parity: tuple[Parity, ...]
    largest_half: float
    """The largest magnitude in any FP16 tensor; 0 if there is none."""
    latency: float
    """Median milliseconds of ONNX Runtime on this CPU for one batch."""
    batch: int

    @property
    def passed(self) -> bool:
        """Whether the rung may be written."""
        return all(parity.passed for parity in self.parity) and self.largest_half < LIMIT

    def __str__(self) -> str:
        parts = [f"{p.agreement:.3%} same class, error {p.max_error:.1e} against {p.reference}" for p in self.parity]
        if self.rung != "fp32":
            parts.append(f"largest FP16 value {self.largest_half:.0f} of {LIMIT:.0f}")
        return f"{self.rung}: " + "; ".join(parts)


def verification_frames(
    data: Path | None, count: int, size: tuple[int, int], how: Resize, task: Task = "seg"
) -> tuple[Frame, str]:
    """`count` frames uint8 [count, H, W, 3] of `size`, and a note that describes them.

    They are images spread over a folder or frames of a video that differ, repeated if there are fewer, or else
    synthetic street scenes. Of a split root, the task's validation images are used. Raises InputError if there is no
    readable image.
    """
    if data is None:
        height, width = (min(max(side, SCENE[0]), SCENE[1]) for side in size)
        street = Street(seed=0, height=height, width=width)
        # Distant moments of the scene: consecutive ones are nearly the same image.
        scenes = [resize(street.frame(40 * index)[0], size, how) for index in range(count)]
        note = f"verified on {count} synthetic street scenes; give data to verify on your own images"
        return np.stack(scenes), note
    if data.is_file():
        found = video_frames(data, count, size, how)
        repeated = np.stack([found[index] for index in evenly(len(found), count)])
        return repeated, f"verified on {len(found)} frames of {data}"
    images = images_of(data, ("val", "test", "train"), task)
    chosen = [images[index] for index in evenly(len(images), count)]
    frames = np.stack([resize(read_image(path), size, how) for path in chosen])
    return frames, f"verified on {len(set(chosen))} images of {data}"


def batches(frames: Frame, size: int) -> Iterator[Frame]:
    """The frames in groups of `size`; the number of frames must be a multiple of it."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def answer_of_torch(model: nn.Module, task: Task, frames: Frame, batch: int) -> Answer:
    """The answer of a torch model (BGR pixels to logits), in the type of its weights."""
    kind = next(model.parameters()).dtype
    pixels = (torch.from_numpy(group).to(kind).permute(0, 3, 1, 2) for group in batches(frames, batch))
    with torch.no_grad():
        logits = torch.cat([model(group).float() for group in pixels])
    scores = upsample(logits, (frames.shape[1], frames.shape[2])) if task == "seg" else logits
    return Answer(logits.numpy(), scores.argmax(1).numpy())


def answer_of_graph(session: OnnxSession, task: Task, frames: Frame, batch: int) -> Answer:
    """The answer of a traced graph, run by ONNX Runtime; the classes are the graph's own outputs."""
    outputs = [session.infer(group) for group in batches(frames, batch)]
    logits = np.concatenate([output[LOGITS] for output in outputs])
    if task == "seg":
        classes = np.concatenate([output["class_map"] for output in outputs])
    else:
        classes = np.concatenate([output["scores"] for output in outputs]).argmax(1)
    return Answer(logits, classes.astype(np.int64))


def compare(got: Answer, expected: Answer, graph: str, reference: str, rung: Rung) -> Parity:
    """Compare an answer with another, with the limits of the rung."""
    error, agreement = OVERFLOW, 0.0
    # An overflow never passes as agreement, even if both sides overflow.
    if np.isfinite(got.logits).all() and np.isfinite(expected.logits).all():
        scale = float(np.abs(expected.logits).max()) or 1.0
        error = float(np.abs(got.logits - expected.logits).max()) / scale
        agreement = float(_same(got, expected, NEAR[rung] * scale).mean())
    close = agreement >= FP32_AGREEMENT and error <= FP32_ERROR
    least = QUANTISED_AGREEMENT if rung in QUANTISED else HALF_AGREEMENT
    return Parity(
        graph=graph,
        reference=reference,
        frames=len(got.classes),
        max_error=error,
        agreement=agreement,
        passed=close if rung == "fp32" else agreement >= least,
    )


def _same(got: Answer, expected: Answer, near: float) -> NDArray[np.bool_]:
    """Where the classes are equal, or for whole frames so close in the expected logits that both are valid."""
    same: NDArray[np.bool_] = got.classes == expected.classes
    if expected.classes.ndim > 1:
        return same
    frames = np.arange(len(expected.classes))
    best, other = (expected.logits[frames, answer.classes] for answer in (expected, got))
    return same | (best - other < near)


def judge(
    traced: Graph, rung: Rung, task: Task, frames: Frame, batch: int, reference: Answer, half: Answer | None
) -> Verdict:
    """Measure one rung: against the reference, and (for FP16 and mixed) against torch's float16 and the FP16 range."""
    with closing(traced.session()) as session:
        got = answer_of_graph(session, task, frames, batch)
        latency = _median_latency(session, frames, batch)
    parity = [compare(got, reference, rung, "torch float32, unfolded", rung)]
    if half is not None:
        parity.append(compare(got, half, rung, "torch float16" + (", autocast" if rung == "mixed" else ""), rung))
    largest = 0.0
    if names := half_tensors(traced.model):
        spans = record_spans(traced, batches(frames, batch))
        largest = max((spans[name].largest for name in names if name in spans), default=0.0)
    return Verdict(rung, tuple(parity), largest, latency, batch)


def _median_latency(session: OnnxSession, frames: Frame, batch: int) -> float:
    """Median milliseconds for one batch, after warm-up."""
    groups = list(batches(frames, batch))
    taken = []
    for run in range(LATENCY_RUNS):
        started = time.perf_counter()
        session.infer(groups[run % len(groups)])
        taken.append(time.perf_counter() - started)
    return 1e3 * statistics.median(taken)


def verification_arrays(frames: Frame, reference: Answer, task: Task) -> dict[str, Any]:
    """The content of verify.npz: frames, the reference's logits, and its class_map (uint8) or scores (float32)."""
    if task == "seg":
        answer: dict[str, NDArray[Any]] = {"class_map": reference.classes.astype(np.uint8)}
    else:
        answer = {"scores": torch.softmax(torch.from_numpy(reference.logits), dim=1).numpy()}
    return {"frames": frames, "logits": reference.logits, **answer}
