"""Read a graph's activations over frames, with memory that does not grow with the number of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.graphs import exposing, shapes
from aselect_calibration.histogram import Histogram
from aselect_calibration.weights import Graph
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.progress import Progress, silent

Activation = NDArray[np.float32]

AT_ONCE = 256 * 2**20
"""Bytes of activations that one pass over the frames reads at a time; more tensors take more passes."""

ROWS = 512
"""Rows of a layer's input that are kept to evaluate smoothing on."""


class Frames(Sized, Iterable[Frame], Protocol):
    """Frames uint8 [H, W, 3] that can be iterated more than once."""


@dataclass(frozen=True)
class ChannelSample:
    """Statistics of a layer's input by channel."""

    largest: NDArray[np.float32]
    """max |x| of every channel (D,)."""
    rows: NDArray[np.float32]
    """Rows (R, D), spread over the frames."""


def histograms(
    graph: Graph, tensors: Sequence[str], frames: Frames, progress: Progress = silent
) -> dict[str, Histogram]:
    """A histogram of each tensor over all frames."""
    found = dict.fromkeys(tensors, Histogram())

    def look(name: str, value: Activation) -> None:
        found[name] = found[name].added(value)

    observe(graph, tensors, frames, look, lambda _, share: progress("measuring the ranges of activations", share))
    return found


def channel_samples(
    graph: Graph, tensors: Sequence[str], frames: Frames, progress: Progress = silent
) -> dict[str, ChannelSample]:
    """The channels (last axis) of each tensor over all frames."""
    largest: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    per_batch = max(1, ROWS * graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value // len(frames))

    def look(name: str, value: Activation) -> None:
        flat = value.reshape(-1, value.shape[-1])
        highest = np.maximum(flat.max(axis=0), -flat.min(axis=0))
        largest[name] = np.maximum(largest[name], highest) if name in largest else highest
        chosen = np.linspace(0, len(flat) - 1, min(per_batch, len(flat))).astype(np.int64)
        if len(rows[name]) * per_batch < ROWS:
            rows[name].append(flat[chosen])

    observe(graph, tensors, frames, look, lambda _, share: progress("measuring the channels of activations", share))
    return {name: ChannelSample(largest[name], np.concatenate(rows[name])) for name in tensors}


def observe(
    graph: Graph,
    tensors: Sequence[str],
    frames: Frames,
    look: Callable[[str, Activation], None],
    progress: Progress = silent,
) -> None:
    """Pass every batch of every named tensor to `look`, which must not keep a reference to it.

    Raises InputError for frames that do not fit the graph, whose number is not a multiple of its batch or differs from
    their length, and for an activation that is not finite.
    """
    groups = list(_groups(shapes(graph), dict.fromkeys(tensors)))
    total = len(groups) * len(frames)
    for turn, names in enumerate(groups):
        with closing(exposing(graph, names).session()) as session:
            for done, batch in _batches(graph, frames):
                values: Mapping[str, NDArray[Any]] = session.infer(batch, names)
                for name, value in values.items():
                    if not np.isfinite(value).all():
                        raise InputError(
                            f"{name}: got NaN or infinity on calibration frame {done}, expected finite activations; "
                            "check the bundle's weights"
                        )
                    look(name, value)
                progress("reading activations", (turn * len(frames) + done) / total)


def _groups(sizes: Mapping[str, tuple[int, ...]], tensors: Iterable[str]) -> Iterator[list[str]]:
    """The tensors, as many at a time as AT_ONCE allows."""
    group: list[str] = []
    taken = 0
    for name in tensors:
        size = 4 * int(np.prod(sizes[name], dtype=np.int64))
        if group and taken + size > AT_ONCE:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += size
    if group:
        yield group


def _batches(graph: Graph, frames: Frames) -> Iterator[tuple[int, Frame]]:
    """The frames in the graph's batches, with the number of frames so far."""
    batch, *shape = (side.dim_value for side in graph.model.graph.input[0].type.tensor_type.shape.dim)
    if len(frames) == 0 or len(frames) % batch:
        raise InputError(
            f"got {len(frames)} calibration frames, expected a positive multiple of the batch, {batch}; "
            "change one of the two",
            parameter=("calib_images", "batch"),
        )
    group: list[Frame] = []
    done = 0
    for frame in frames:
        if frame.dtype != np.uint8 or list(frame.shape) != shape:
            raise InputError(
                f"calibration frame {done}: got {frame.dtype} {list(frame.shape)}, expected uint8 {shape}; resize it"
            )
        group.append(frame)
        done += 1
        if len(group) == batch:
            yield done, np.stack(group)
            group = []
    if done != len(frames):
        raise InputError(
            f"got {done} calibration frames, expected {len(frames)}; do not change the data during calibration"
        )
