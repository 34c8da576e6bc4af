"""Feature maps of the best and the worst candidate of a scan on one image, for display."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.selection.evidence import open_images
from aselect_edge.selection.run import Request, prepare_scan
from aselect_edge.team import Team
from aselect_runtime.frames import Frame
from aselect_runtime.records import Noise, Selection, Tap


@dataclass(frozen=True)
class FeatureMap:
    """A candidate's tokens as colours."""

    title: str
    colours: NDArray[np.float32]
    """float32 (rows, columns, 3), 0 to 1."""


def feature_maps(
    backbone: LoadedBackbone, data: Path, request: Request, selection: Selection
) -> tuple[Frame, list[FeatureMap]]:
    """One image of `data` at model size, and its feature maps at the chosen and the lowest-scored candidate.

    Two forward passes. The selection must have scores.
    """
    worst = min(selection.scores, key=lambda score: score.value)
    scan = prepare_scan(backbone, replace(request, settings=replace(request.settings, tap=None)), Team())
    images = open_images(data, 1, request.seed, request.task)
    frame: Frame = images.frames(range(1), scan.imgsz, scan.resize)[0].numpy()
    x0 = scan.x0(images, range(1))

    def colours(noise: Noise, tap: Tap, name: str) -> FeatureMap:
        ((_, feature),) = scan.walk(x0, noise, taps=(tap,))
        return FeatureMap(f"{name}: {tap} at σ {noise.sigma:.2f}", principal_colours(feature[0]).cpu().numpy())

    return frame, [colours(selection.noise, selection.tap, "chosen"), colours(worst.noise, worst.tap, "lowest score")]


def principal_colours(feature: Tensor) -> Tensor:
    """(rows, columns, D) -> (rows, columns, 3): the first three principal components, each scaled to 0 to 1.

    A LayerNorm is applied to the tokens first, as in a head. A component without variance is 0.5 everywhere.
    """
    rows, columns, width = feature.shape
    tokens = F.layer_norm(feature.float(), (width,)).flatten(0, 1)
    centred = tokens - tokens.mean(0)
    left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
    three = F.pad(left * strength, (0, max(0, 3 - left.shape[1])))[:, :3]
    low, high = three.min(0).values, three.max(0).values
    span = high - low
    varied = span > 1e-6 * strength.max().clamp(min=1e-12)
    scaled = (three - low) / span.where(varied, torch.ones_like(span))
    return scaled.where(varied, torch.full_like(scaled, 0.5)).view(rows, columns, 3)
