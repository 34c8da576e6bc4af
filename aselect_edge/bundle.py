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
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.family import Pixels
from aselect_edge.backbones.loading import build, fill_backbone
from aselect_edge.backbones.store import Stored, WeightStore
from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.files import atomic_folder, check_files, inside, sha256
from aselect_edge.heads import Head, build_head
from aselect_edge.perception import FoldedPerception, Perception
from aselect_edge.records import Bundle, Selection

SHIPPED: dict[str, Path] = {"seg": Path(__file__).parent / "bundles" / "seg"}
"""The bundles inside the package, by task."""

RECORD = "bundle.json"
_SELECTION, _HEAD = "selection.json", "head.safetensors"


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle whose files were checked against their hashes."""

    folder: Path
    record: Bundle
    selection: Selection

    def reference(self, imgsz: tuple[int, int] | None = None) -> Perception:
        """The unfolded model: every stored block whole, conditioning computed at run time; eval mode, float32."""
        record = self.record
        backbone = self.backbone()
        head = build_head(record.head, record.task, [backbone.model.width] * len(record.taps), len(record.classes))
        _load_head(head, self.folder / _HEAD)
        model = Perception(
            backbone.model,
            head,
            record.noise,
            record.taps,
            imgsz or record.imgsz,
            record.noise_seed,
            backbone.encoder,
            backbone.condition,
        )
        return model.eval().requires_grad_(False)

    def deployed(self, imgsz: tuple[int, int] | None = None) -> FoldedPerception:
        """The folded, truncated model; same signature as the reference."""
        return self.reference(imgsz).deployed()

    def backbone(self, lean: bool = False) -> LoadedBackbone:
        """The blocks that the taps need, with what encodes for them and what they are conditioned on."""
        source = self.record.backbone
        depth = 1 + max(tap.block for tap in self.record.taps)
        if source.file is None:
            return load_backbone(source.source, source.revision, depth=depth, lean=lean)
        model = build(DiT, source.config, depth)
        places = {ours: Stored(theirs) for ours, theirs in model.keys().items()}
        fill_backbone(model, WeightStore([inside(self.folder, source.file)], places), lean)
        return LoadedBackbone(model, Pixels(), model.condition(), model.schedule(None), source.source, source.revision)


def load_bundle(path: Path) -> LoadedBundle:
    """Open a bundle folder; raises InputError, RecordError or IntegrityError."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected a bundle (the folder that aselect-train writes)")
    record = Bundle.load(path / RECORD)
    needed = [_SELECTION, _HEAD, *([record.backbone.file] if record.backbone.file else [])]
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
