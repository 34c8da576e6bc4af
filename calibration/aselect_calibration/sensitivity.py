"""The layers that INT8 affects most, and the fewest that must return to higher precision to keep the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.layers import Layer
from aselect_calibration.weights import Graph
from aselect_runtime.progress import Progress

Build = Callable[[Sequence[Layer]], Graph]
"""Builds the graph in which these layers compute in INT8 and all others are unchanged."""

Batches = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Damage:
    """The effect of a layer on the logits if only that layer is INT8."""

    layer: Layer
    noise: float
    """Energy of the logits' error over the energy of their variation (1 / SQNR)."""


@dataclass(frozen=True)
class Outcome:
    """The result of the search: the layers returned to higher precision, and the remaining drop."""

    returned: tuple[Layer, ...]
    drop: float
    met: bool
    measured: dict[int, float] = field(default_factory=dict)
    """Number of layers returned -> drop, for every measurement."""


def rank(
    exact: Graph, build: Build, layers: Sequence[Layer], batches: Batches, logits: str, progress: Progress
) -> tuple[Damage, ...]:
    """The layers, worst first, by the error in the logits of a few frames if only that layer is INT8.

    A proxy for the task metric, whose noise is larger than the effect of one layer. Needs one session per layer.
    """
    reference = _logits(exact, batches, logits)
    energy = float(((reference - reference.mean()) ** 2).sum()) or 1.0
    found = []
    for index, layer in enumerate(layers):
        progress(f"ranking {len(layers)} layers by their error", index / len(layers))
        error = _logits(build([layer]), batches, logits) - reference
        noise = float((error**2).sum()) / energy
        found.append(Damage(layer, noise if np.isfinite(noise) else float(np.finfo(np.float32).max)))
    return tuple(sorted(found, key=lambda damage: -damage.noise))


def give_back(ranked: Sequence[Layer], drop: Callable[[Sequence[Layer]], float], allowed: float) -> Outcome:
    """Return the fewest of the layers, worst first, to higher precision so that the `drop` of the others is allowed.

    The number is doubled until it suffices and then bisected, so at most 2·log2(layers) + 1 measurements are made. This
    assumes that returning more layers never hurts; if it does, the result is valid but may not be the smallest. If no
    layer may stay INT8, the outcome is the best measurement and is marked as not met.
    """
    measured: dict[int, float] = {}

    def enough(count: int) -> bool:
        measured[count] = drop(ranked[count:])
        return measured[count] <= allowed

    failed, count = -1, 0
    while not enough(count):
        failed = count
        if count == len(ranked) - 1:
            best = min(measured, key=lambda tried: (measured[tried], tried))
            return Outcome(tuple(ranked[:best]), measured[best], False, measured)
        count = min(max(1, 2 * count), len(ranked) - 1)
    while count - failed > 1:
        middle = (failed + count) // 2
        if enough(middle):
            count = middle
        else:
            failed = middle
    return Outcome(tuple(ranked[:count]), measured[count], True, measured)


def _logits(graph: Graph, batches: Batches, logits: str) -> NDArray[np.float32]:
    with closing(graph.session()) as session:
        return np.concatenate([session.infer(batch, [logits])[logits] for batch in batches])
