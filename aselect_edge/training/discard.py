"""Which channels a head does without."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from aselect_edge.bundle.discard import IMAGES, check_channels, magnitude, massive_channels
from aselect_edge.bundle.model import TapModel
from aselect_edge.data.spread import evenly
from aselect_edge.training.goal import Goal
from aselect_edge.training.views import to_pixels
from aselect_runtime.frames import resize
from aselect_runtime.records import Resize

log = logging.getLogger(__name__)


def discarded_channels(
    model: TapModel, asked: Literal["auto"] | tuple[int, ...], goal: Goal, how: Resize
) -> tuple[tuple[int, ...], ...]:
    """The channels of each tap to set to zero, in order; () where there are none.

    What was `asked` of every tap, or (auto) those that are massive in a few images of train. Raises InputError for
    channels that a tap does not have.
    """
    if asked != "auto":
        return (check_channels(asked, model.backbone.width),) * len(model.taps)
    found = _massive(model, goal, how)
    for tap, channels in zip(model.taps, found, strict=True):
        if channels:
            log.warning("%s: discarding the massive channels %s", tap, ", ".join(map(str, channels)))
    if not any(found):
        log.warning("no channel of %s is massive, none is discarded", ", ".join(map(str, model.taps)))
        return ()
    return found


@torch.no_grad()
def _massive(model: TapModel, goal: Goal, how: Resize) -> tuple[tuple[int, ...], ...]:
    count = len(goal.train)
    chosen = evenly(count, min(IMAGES, count))
    folded = model.deployed()
    sums = [torch.zeros(model.backbone.width, dtype=torch.float64) for _ in model.taps]
    for index in chosen:
        frame = resize(goal.train.read(index)[0], model.imgsz, how)
        features = folded.features(to_pixels(frame[None]))
        sums = [one + magnitude(feature) for one, feature in zip(sums, features, strict=True)]
    return tuple(massive_channels(each) for each in sums)
