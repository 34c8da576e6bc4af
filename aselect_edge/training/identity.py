"""The identity of a checkpoint and of a feature cache: only the same run reuses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aselect_edge.backbones.digest import backbone_digest, tensors_digest
from aselect_edge.bundle.distilled import DistilledTapModel
from aselect_edge.bundle.model import TapModel
from aselect_edge.data import LabelledData
from aselect_edge.training.finetune import Unfreeze
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import data_digest
from aselect_runtime.records import Resize


def features_digest(model: TapModel) -> str:
    """SHA-256 over everything that determines the features: backbone, encoder, condition, noise, taps and size."""
    content = [
        backbone_digest(model.backbone, model.encoder, model.condition),
        tensors_digest([("eps", model.eps)]),
        [*map(str, model.taps)],
        model.noise.model_dump(),
        model.imgsz,
    ]
    if any(mask is not None for mask in model.discard.keep):
        content.append(tensors_digest((str(n), mask) for n, mask in enumerate(model.discard.keep) if mask is not None))
    if isinstance(model, DistilledTapModel):
        content.append(tensors_digest(model.stem.state_dict().items()))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Digests:
    """Digests of the features and of the files of both splits; each reads all of them, so a run computes them once."""

    features: str
    train: str
    val: str

    @classmethod
    def of(cls, model: TapModel, train: LabelledData, val: LabelledData) -> Digests:
        """Computed before training; raises InputError for a file that cannot be read."""
        return cls(features_digest(model), data_digest(train), data_digest(val))


def run_identity(
    model: TapModel,
    digests: Digests,
    how: Resize,
    recipe: Recipe,
    unfreeze: Unfreeze | None,
    schedule: Mapping[str, Any] | None = None,
) -> str:
    """Model, data and recipe of a run, as JSON; without the device, so that a run may resume on another.

    `schedule` is the noise schedule of the denoising loss.
    """
    content = {
        "recipe": asdict(recipe),
        "unfreeze": str(unfreeze),
        "schedule": None if unfreeze is None else schedule,
        "features": digests.features,
        "head": str(model.head),
        "resize": how.model_dump(),
        "train": digests.train,
        "val": digests.val,
    }
    return json.dumps(content)
