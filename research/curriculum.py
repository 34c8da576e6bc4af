"""A timestep curriculum: pretraining on some of the schedule's timesteps, chosen again as the model learns.

From secondary sources: texts about A-SelecT describe a learned selector g(x0) -> p(t) that keeps some 80 of 1000
timesteps for pretraining. The paper's abstract and the authors' released code do not have it: they use a backbone
trained on all timesteps. The texts do not specify how the selector chooses and how often; scoring a few noise levels
with the current model, keeping the best timesteps between them, and everything else here are this project's
interpretation. `even`, as many evenly spread timesteps, is the control: it separates fewer from well-chosen timesteps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aselect_edge.backbones import DiT, LoadedBackbone
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.noise import DiffusionSchedule, candidate_timesteps
from aselect_edge.selection import Settings
from aselect_edge.selection.by_hfr import by_hfr
from aselect_edge.selection.choice import default_tap
from aselect_edge.selection.evidence import Evidence, Images
from aselect_edge.selection.scan import Scan, candidate_taps
from aselect_edge.selection.studies.by_learned import by_learned
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice
from aselect_runtime.records import DataFingerprint

By = Literal["hfr", "learned", "even"]
RULES: tuple[str, ...] = get_args(By)


@dataclass(frozen=True)
class Curriculum:
    """How many timesteps, by which rule, and when they are chosen; `warmup` and `every` count samples of the run."""

    timesteps: int = 80
    by: By = "hfr"
    warmup: int = 10_000
    """Number of first samples with all timesteps: a new model's features contain no information yet."""
    every: int = 10_000
    """Samples from one choice to the next."""
    images: int = 16
    levels: int = 21
    """Noise levels that are scored; between them, scores are interpolated."""

    def __post_init__(self) -> None:
        choice(self.by, RULES, "curriculum_by")
        if self.timesteps < 1:
            raise InputError(
                f"got a curriculum of {self.timesteps} timesteps, expected 1 or more; change it", parameter="curriculum"
            )

    def due(self, seen: int, last: int | None) -> bool:
        """Whether timesteps are to be chosen after `seen` samples, if the last choice was after `last`."""
        return seen >= self.warmup and (last is None or seen - last >= self.every)


def choose(
    curriculum: Curriculum, model: DiT, schedule: dict[str, Any], images: NDArray[np.uint8], seed: int
) -> list[int]:
    """The timestep indices to continue with, ascending; images (N, H, W, 3) BGR are used to score the model.

    `hfr` keeps the timesteps of the highest High-Frequency Ratio of the features, `learned` the most probable
    ones of the selector, each at the default tap; without a class. The model's mode and weights are unchanged.
    """
    meant = DiffusionSchedule(schedule)
    total = schedule["num_train_timesteps"]
    if curriculum.by == "even":
        return candidate_timesteps(total, curriculum.timesteps)
    steps = meant.candidates(curriculum.levels)
    tap = default_tap(candidate_taps(model.components, model.depth, None), model.depth)
    backbone = LoadedBackbone(model, Pixels(), model.condition(), meant, "pretraining")
    scan = Scan(backbone, meant.levels(steps), (tap,), (images.shape[1], images.shape[2]), seed=seed)
    evidence, settings = Evidence(_images(images)), Settings(tap=tap)
    if curriculum.by == "hfr":
        scores = [score.value for score in by_hfr(scan, evidence, settings).scores]
    else:
        scores = [entry.weight for entry in by_learned(scan, evidence, settings).distribution]
    everywhere = np.interp(np.arange(total), steps, scores)
    best: list[int] = np.argsort(-everywhere, kind="stable")[: curriculum.timesteps].tolist()
    return sorted(best)


def _images(images: NDArray[np.uint8]) -> Images:
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    reads = tuple(partial(np.copy, image) for image in images)
    return Images(reads, DataFingerprint(images=len(images), sha256=digest))
