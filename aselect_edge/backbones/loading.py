"""Loading a backbone, whatever it comes as, and saving one as the folder that diffusers writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from aselect_edge.backbones.dit import DiT, diffusers_keys
from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels
from aselect_edge.backbones.folders import WEIGHTS, beside, local_folder, part_of, read_json, weight_files
from aselect_edge.backbones.noise import Schedule
from aselect_edge.backbones.store import Stored, WeightStore, fill
from aselect_edge.errors import InputError
from aselect_edge.files import atomic_write

SHIPPED = Path(__file__).parents[1] / "bundles" / "backbone"
"""The small pixel-space DiT inside the package; its source is written `shipped`."""

FAMILIES = {
    "DiTTransformer2DModel": "aselect_edge.backbones.dit:DiT",
    "SD3Transformer2DModel": "aselect_edge.backbones.sd3:SD3",
    "PixArtTransformer2DModel": "aselect_edge.backbones.pixart:PixArt",
}
"""diffusers' class name -> the family that reads its folders."""


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to be scanned or folded: the model, what encodes for it, and what it is conditioned on."""

    model: Backbone
    encoder: Encoder
    condition: Condition
    schedule: Schedule
    source: str
    revision: str | None = None

    def x0(self, pixels: Tensor) -> Tensor:
        """The model's clean input (N, C, h, w) of pixels (N, 3, H, W), BGR, float 0..255."""
        return self.encoder.x0(pixels)

    @property
    def side(self) -> int:
        """Height and width of the frames that the model was trained on."""
        return self.model.side * self.encoder.stride

    def grid(self, imgsz: tuple[int, int]) -> tuple[int, int]:
        """Token rows and columns of frames of this size; raises InputError for one that cannot be taken."""
        return self.model.grid(*self.encoder.size(*imgsz))


def load_backbone(
    source: str,
    revision: str | None = None,
    warn: Callable[[str], None] = lambda _line: None,
    *,
    label: int | None = None,
    depth: int | None = None,
    lean: bool = False,
) -> LoadedBackbone:
    """Load a diffusers folder (a pipeline, or its `transformer/`), a hub id or `shipped`; float32, eval mode.

    `label` conditions on a class instead of on none. Only the first `depth` blocks are read; a `lean` model leaves
    them on disk until they are run or folded. The schedule is the pipeline's own; for a transformer that comes
    without one it is the published models', and `warn` is told. A folder's source is kept as an absolute path, so
    that records name it from anywhere. Raises InputError where the source is no backbone, IntegrityError where its
    weights are corrupt or of other shapes.
    """
    folder = SHIPPED if source == "shipped" else local_folder(source, revision)
    transformer = part_of(folder, "transformer")
    config = read_json(transformer / "config.json")
    model = build(family_of(config, transformer), config, depth)
    places = {ours: Stored(theirs) for ours, theirs in model.keys().items()}
    fill_backbone(model, WeightStore(weight_files(transformer), places), lean)
    if model.channels != 3:
        raise InputError(
            f"{transformer}: got {model.channels} input channels, expected 3; DiTs on the latents of an "
            "autoencoder are not supported yet, choose one on pixels"
        )
    name = source if source == "shipped" or not Path(source).is_dir() else str(folder.resolve())
    schedule = _schedule(type(model), folder, warn)
    return LoadedBackbone(model, Pixels(), model.condition(label, folder), schedule, name, revision)


def family_of(config: dict[str, Any], where: Path) -> type[Backbone]:
    """The family of a transformer's `config.json`; raises InputError."""
    home = FAMILIES.get(str(config.get("_class_name")))
    if home is None:
        raise InputError(
            f"{where}: got {config.get('_class_name')!r}, expected one of {', '.join(FAMILIES)}; choose such a backbone"
        )
    module, _, name = home.partition(":")
    family: type[Backbone] = getattr(import_module(module), name)
    return family


def build(family: type[Backbone], config: dict[str, Any], depth: int | None = None) -> Backbone:
    """An unfilled model on the meta device."""
    with torch.device("meta"):
        return family.from_json(config, depth)


def fill_backbone(model: Backbone, store: WeightStore, lean: bool = False) -> None:
    """Give an unfilled model its weights, all of them or, if `lean`, all but the streamed; eval mode.

    Raises IntegrityError for a tensor that is missing or of another shape.
    """
    fill(model, store, "backbone weights", model.streamed if lean else ())
    model.store = store if lean else None
    model.requires_grad_(not lean)


def save_backbone(model: DiT, schedule: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a pipeline folder that diffusers and `load_backbone` read."""
    state = model.state_dict()
    keys = diffusers_keys(model.config)
    tensors = {theirs: state[ours].detach().to("cpu", dtype).clone() for ours, theirs in keys.items()}
    transformer, scheduler = folder / "transformer", folder / "scheduler"
    atomic_write(transformer / "config.json", json.dumps(model.config.to_json(), indent=2) + "\n")
    # Through bytes, because safetensors and torch report a full disk as errors of their own kinds.
    atomic_write(transformer / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    atomic_write(
        scheduler / "scheduler_config.json", json.dumps({"_class_name": "DDPMScheduler", **schedule}, indent=2)
    )


def _schedule(family: type[Backbone], folder: Path, warn: Callable[[str], None]) -> Schedule:
    # A pipeline's own transformer/ folder may be named directly: its scheduler is then next to it.
    scheduler = beside(folder, "scheduler")
    if scheduler is not None:
        return family.schedule(read_json(scheduler / "scheduler_config.json"))
    schedule = family.schedule(None)
    warn(f"{folder}: no scheduler, taking the published models': {schedule.describe()}")
    return schedule
