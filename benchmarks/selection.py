"""Does a label-free score pick what labels pick? Two selection records of one backbone, held against each other.

    python -m benchmarks.selection [LABEL_FREE.json] [PROBE.json]

By default the HFR scan in docs/selection and the probe that the shipped bundle carries, and then also what the probe
says of the taps that the bundle reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.records import Selection

Key = tuple[str, float]


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:]]
    first, second = paths or [Path("docs/selection/hfr.json"), SHIPPED["seg"] / "selection.json"]
    label_free, probe = Selection.load(first), Selection.load(second)
    a, b = scores(label_free), scores(probe)
    keys = sorted(a.keys() & b.keys())
    if not keys:
        sys.exit(f"{first} and {second} share no candidate, expected scans of one backbone")
    print(f"{len(keys)} candidates that both scored, {label_free.strategy} against {probe.strategy}")
    print(
        f"  Spearman's rho over all of them                 {spearman([a[k] for k in keys], [b[k] for k in keys]):6.2f}"
    )
    taps = sorted({tap for tap, _ in keys})
    each = [spearman([a[k] for k in keys if k[0] == tap], [b[k] for k in keys if k[0] == tap]) for tap in taps]
    print(f"  over noise levels, tap by tap: median           {np.median(each):6.2f}")
    pick = (str(label_free.tap), label_free.noise.model_timestep)
    if pick in b:
        print(f"  {probe.strategy} score at the label-free pick ({pick[0]}, t = {pick[1]:g})  {b[pick]:.3f}")
    own = (str(probe.tap), probe.noise.model_timestep)
    print(f"  {probe.strategy} score at its own pick ({own[0]}, t = {own[1]:g})  {b[own]:.3f}")
    if not paths:
        for tap in load_bundle(SHIPPED["seg"]).record.taps:
            deployed = (str(tap), probe.noise.model_timestep)
            print(
                f"  {probe.strategy} score of the deployed tap ({deployed[0]}, t = {deployed[1]:g})  {b[deployed]:.3f}"
            )


def scores(selection: Selection) -> dict[Key, float]:
    """Score by tap and timestep."""
    return {(str(score.tap), score.noise.model_timestep): score.value for score in selection.scores}


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation of two lists without ties."""

    def ranks(values: list[float]) -> NDArray[np.intp]:
        return np.argsort(np.argsort(values))

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


if __name__ == "__main__":
    main()
