"""What REPA's files have besides SiT's: an older name of the later blocks, and REPA-E's statistics of the latents."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from aselect_edge.backbones.facebook import Shapes, blocks_of
from aselect_edge.backbones.store import WeightStore
from aselect_runtime.errors import InputError

STATISTICS = ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
"""REPA-E's batch normalisation of the latents, without weights."""
_STATISTICS_EPS = 1e-4
"""Of that normalisation."""
_LEGACY = re.compile(r"decoder_blocks\.(\d{1,4})\.(.+)$")


def latents_of(path: Path, store: WeightStore) -> dict[str, list[float]]:
    """Mean and std of each channel of the latents that REPA-E normalises; empty for other files.

    The model was trained on (latents - mean) / sqrt(variance + eps). Raises InputError for nonsense.
    """
    if not has_statistics(store.held):
        return {}
    mean, variance = (store.tensor(name).double() for name in STATISTICS[:2])
    channels = len(mean)
    if variance.shape != (channels,) or not (mean.isfinite() & variance.isfinite() & (variance >= 0)).all():
        raise InputError(
            f"{path}: got {STATISTICS[0]} and {STATISTICS[1]} that are not {channels} finite means and variances, "
            "expected those of the latents (REPA-E); choose another checkpoint"
        )
    return {"latents_mean": mean.tolist(), "latents_std": (variance + _STATISTICS_EPS).sqrt().tolist()}


def has_statistics(names: Container[str]) -> bool:
    """Whether a file has the statistics of its latents."""
    return all(name in names for name in STATISTICS[:2])


def legacy_names(shapes: Shapes) -> dict[str, str]:
    """Names of before REPA had one list of blocks -> names now: `decoder_blocks` went on where `blocks` ended.

    Empty where the tensors of those are not a block's: another model's decoder.
    """
    inside = {name.removeprefix("blocks.0."): shape for name, shape in shapes.items() if name.startswith("blocks.0.")}
    later = [found for name in shapes if (found := _LEGACY.match(name))]
    indices = {int(found[1]) for found in later}
    expected = {f"{index}.{name}": shape for index in range(len(indices)) for name, shape in inside.items()}
    if {f"{found[1]}.{found[2]}": shapes[found[0]] for found in later} != expected:
        return {}
    first: int = blocks_of(shapes)["num_layers"]
    return {found[0]: f"blocks.{first + int(found[1])}.{found[2]}" for found in later}
