"""Which layers INT8 hurts, and how few of them must be given back for the accuracy to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aselect_calibration.layers import Layer
from aselect_calibration.weights import Graph
from aselect_runtime.progress import Progress

Build = Callable[[Sequence[Layer]], Graph]
"""The graph in which these layers compute in INT8 and all others as before."""

Batches = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Damage:
    """What a layer does to the logits when it alone is INT8."""

    layer: Layer
    noise: float
    """Energy of the logits' error over the energy of what varies in them (1 / SQNR)."""


@dataclass(frozen=True)
class Outcome:
    """How the search ended: the layers given back, and the drop that is left."""

    returned: tuple[Layer, ...]
    drop: float
    met: bool
    measured: dict[int, float] = field(default_factory=dict)
    """Number of layers given back -> drop, of every measurement."""


def rank(
    exact: Graph, build: Build, layers: Sequence[Layer], batches: Batches, logits: str, progress: Progress
) -> tuple[Damage, ...]:
    """The layers, worst first, by the error that each alone brings into the logits of a few frames.

    A stand-in for the task metric, which one layer moves by less than its own noise. Costs one session per layer.
    """
    reference = _logits(exact, batches, logits)
    energy = float(((reference - reference.mean()) ** 2).sum()) or 1.0
    found = []
    for index, layer in enumerate(layers):
        progress(f"ranking {len(layers)} layers by damage", index / len(layers))
        error = _logits(build([layer]), batches, logits) - reference
        noise = float((error**2).sum()) / energy
        found.append(Damage(layer, noise if np.isfinite(noise) else float(np.finfo(np.float32).max)))
    return tuple(sorted(found, key=lambda damage: -damage.noise))


def give_back(ranked: Sequence[Layer], drop: Callable[[Sequence[Layer]], float], allowed: float) -> Outcome:
    """Give back the fewest of the layers, worst first, for which `drop` of the rest is at most `allowed`.

    The number is doubled until it is enough and then bisected, so at most 2·log2(layers) + 1 measurements are made.
    That assumes that giving back more never hurts; where it does, the result holds but may not be the fewest.
    If no layer may stay INT8, the outcome is the best that was measured, and not met.
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
    session = graph.session()
    values = np.concatenate([session.infer(batch, [logits])[logits] for batch in batches])
    session.close()
    return values
