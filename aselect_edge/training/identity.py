"""Of what a checkpoint and a cache of features are: only the same run takes them up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aselect_edge.backbones.digest import backbone_digest, tensors_digest
from aselect_edge.bundle.distilled import DistilledTapModel
from aselect_edge.bundle.model import TapModel
from aselect_edge.evaluation import Data
from aselect_edge.training.finetune import Unfreeze
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.views import data_digest
from aselect_runtime.records import Resize


def features_digest(model: TapModel) -> str:
    """SHA-256 over everything that decides the features: backbone, encoder, condition, noise, taps and size."""
    content = [
        backbone_digest(model.backbone, model.encoder, model.condition),
        tensors_digest([("eps", model.eps)]),
        [*map(str, model.taps)],
        model.noise.model_dump(),
        model.imgsz,
    ]
    if isinstance(model, DistilledTapModel):
        content.append(tensors_digest(model.stem.state_dict().items()))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Digests:
    """Of the features and of either split's files: each reads all of them, so that a run does it once."""

    features: str
    train: str
    val: str

    @classmethod
    def of(cls, model: TapModel, train: Data, val: Data) -> Digests:
        """Before any of the model learns; raises InputError for a file that cannot be read."""
        return cls(features_digest(model), data_digest(train), data_digest(val))


def run_identity(
    model: TapModel,
    digests: Digests,
    how: Resize,
    recipe: Recipe,
    unfreeze: Unfreeze | None,
    schedule: Mapping[str, Any] | None = None,
) -> str:
    """What is trained, on what and how, as JSON; not on which device, so that a run may go on on another.

    `schedule` is what fine-tuning denoises by.
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
