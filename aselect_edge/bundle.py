"""A bundle: the folder that training writes and export reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.loading import BUNDLE, build, family_class, fill_backbone, own_places, shipped_schedule
from aselect_edge.backbones.prompt import load_condition, save_condition
from aselect_edge.backbones.store import WeightStore
from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.files import atomic_folder, check_files, inside, sha256
from aselect_edge.heads import Head, build_head
from aselect_edge.perception import FoldedPerception, Perception
from aselect_edge.records import Bundle, Selection

SHIPPED: dict[str, Path] = {task: Path(__file__).parent / "bundles" / task for task in ("seg", "cls")}
"""The bundles inside the package, by task."""

RECORD = BUNDLE
_SELECTION, _HEAD = "selection.json", "head.safetensors"


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle whose files were checked against their hashes."""

    folder: Path
    record: Bundle
    selection: Selection

    def reference(self, imgsz: tuple[int, int] | None = None, lean: bool = False) -> Perception:
        """The unfolded model: every stored block whole, conditioning computed at run time; eval mode, float32.

        A `lean` one has one block in memory at a time and reads each again for every batch.
        """
        record = self.record
        backbone = self.backbone(lean)
        head = build_head(record.head, record.task, [backbone.model.width] * len(record.taps), len(record.classes))
        _load_head(head, self.folder / _HEAD)
        return perception(backbone, head, record, imgsz).eval().requires_grad_(False)

    def deployed(self, imgsz: tuple[int, int] | None = None) -> FoldedPerception:
        """The folded, truncated model; same signature as the reference. Folded block by block, in little memory."""
        return self.reference(imgsz, lean=True).deployed()

    def backbone(self, lean: bool = False) -> LoadedBackbone:
        """The blocks that the taps need, with what encodes for them and what they are conditioned on."""
        source = self.record.backbone
        depth = 1 + max(tap.block for tap in self.record.taps)
        condition = None if source.condition is None else load_condition(inside(self.folder, source.condition))
        if source.file is None:
            return load_backbone(
                source.source,
                source.revision,
                family=source.family,
                vae=source.vae,
                label=source.label,
                heads=source.config.get("num_attention_heads"),
                condition=condition,
                depth=depth,
                lean=lean,
            )
        model = build(family_class(source.family), source.config, depth)
        fill_backbone(model, WeightStore([inside(self.folder, source.file)], own_places(model)), lean)
        if condition is None:
            condition = model.condition(source.label)
        encoder = Pixels() if model.channels == Pixels.channels else load_encoder(source.vae or source.source)
        # Bundles before 1.1 do not keep their schedule; the shipped backbone's is known.
        known = shipped_schedule() if source.schedule is None and source.source == "shipped" else source.schedule
        schedule = model.schedule(known)
        name, revision = source.source, source.revision
        return LoadedBackbone(model, encoder, condition, schedule, name, revision, source.vae, source.label)


def perception(
    backbone: LoadedBackbone, head: Head, record: Bundle, imgsz: tuple[int, int] | None = None
) -> Perception:
    """The unfolded model that a record describes."""
    return Perception(
        backbone.model,
        head,
        record.noise,
        record.taps,
        imgsz or record.imgsz,
        record.noise_seed,
        backbone.encoder,
        backbone.condition,
        record.noise_draws,
    )


def load_bundle(path: Path) -> LoadedBundle:
    """Open a bundle folder; raises InputError, RecordError or IntegrityError."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected a bundle (the folder that aselect-train writes)")
    record = Bundle.load(path / RECORD)
    needed = [_SELECTION, _HEAD, *filter(None, (record.backbone.file, record.backbone.condition))]
    unlisted = [name for name in needed if name not in record.files]
    if unlisted:
        raise IntegrityError(f"{path / RECORD}: got no hash of {unlisted[0]}, expected one; train the bundle again")
    check_files(path, record.files)
    return LoadedBundle(path, record, Selection.load(path / _SELECTION))


def save_bundle(folder: Path, record: Bundle, selection: Selection, model: Perception) -> None:
    """Write a bundle atomically; weights in float16, the backbone's only if the record names a file for it.

    The backbone is cut after the deepest tap's block: later blocks cannot reach the taps.
    """
    with atomic_folder(folder, RECORD) as temporary:
        selection.save(temporary / _SELECTION)
        _save(model.head.state_dict(), temporary / _HEAD)
        if record.backbone.condition is not None:
            save_condition(model.condition, temporary / record.backbone.condition)
        if record.backbone.file is not None:
            state = model.backbone.state_dict()
            cut = build(type(model.backbone), model.backbone.to_json(), 1 + max(tap.block for tap in record.taps))
            _save({theirs: state[ours] for ours, theirs in cut.keys().items()}, temporary / record.backbone.file)
        hashes = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        record.model_copy(update={"files": hashes}).save(temporary / RECORD)


def _save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    tensors = {k: v.detach().cpu() for k, v in state.items()}
    # BatchNorm's running variance can leave float16's range, so buffers and norms stay as they are.
    half = {k: (v.half() if v.ndim > 1 else v).clone() for k, v in tensors.items()}
    path.write_bytes(save(half, metadata={"format": "pt"}))


def _load_head(head: Head, path: Path) -> None:
    try:
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        nn.Module.load_state_dict(head, state)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"{path}: not this head's weights ({reason}), expected what bundle.json says") from error
