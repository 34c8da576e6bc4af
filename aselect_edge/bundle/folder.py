"""A bundle: the folder that training writes and export reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

import aselect_weights
from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.bundled import BUNDLE, HEAD, SELECTION, read_bundle
from aselect_edge.backbones.loading import backbone_of
from aselect_edge.backbones.prompt import save_condition
from aselect_edge.bundle.distilled import with_distilled
from aselect_edge.bundle.model import FoldedTapModel, TapModel
from aselect_edge.bundle.tiny import with_tiny
from aselect_edge.heads import Head, build_head
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import inside, sha256
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.records import Bundle, Distilled, EncoderKind, Selection

SHIPPED: dict[str, Path] = {"seg": aselect_weights.seg, "cls": aselect_weights.cls}
"""The included bundles, by task."""

RECORD = BUNDLE

KIND = FolderKind(RECORD, lambda path: Bundle.load(path).files)
"""The files that identify a bundle, which a later training may replace."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle whose files were checked against their hashes."""

    folder: Path
    record: Bundle
    selection: Selection
    encoder: EncoderKind = "full"
    vae: str | None = None
    """Of the encoder `tiny`: the folder or hub id of the AutoencoderTiny."""
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def with_encoder(self, encoder: EncoderKind, vae: str | None = None) -> LoadedBundle:
        """The same model with another encoder; raises InputError for one that the bundle does not have."""
        if encoder == "distilled" and self.record.distilled is None:
            raise InputError(
                f"{self.folder}: got the encoder distilled for a bundle that has none, expected one that "
                "aselect-distil wrote; distil this one or use the encoder full",
                parameter="encoder",
            )
        if (encoder == "tiny") != (vae is not None):
            raise InputError(
                f"got the encoder {encoder} {'without' if vae is None else 'with'} an autoencoder, expected one with "
                "the encoder tiny alone: the AutoencoderTiny to deploy",
                parameter=("encoder", "vae"),
            )
        return replace(self, encoder=encoder, vae=vae)

    def reference(self, imgsz: tuple[int, int] | None = None, lean: bool = False) -> TapModel:
        """The unfolded model: every stored block complete, conditioning computed at run time; eval mode, float32.

        A `lean` one holds one block in memory at a time and reads each block again for every batch.
        """
        record = self.record
        backbone = self.backbone(lean)
        if self.vae is not None:
            backbone = with_tiny(backbone, self.vae)
        head = build_head(record.head, record.task, [backbone.model.width] * len(record.taps), len(record.classes))
        _load_head(head, self.folder / HEAD)
        model = tap_model(backbone, head, record, imgsz)
        if self.encoder == "distilled" and record.distilled is not None:
            model = with_distilled(model, record.distilled.stem, inside(self.folder, record.distilled.file))
        return model.eval().requires_grad_(False)

    def deployed(self, imgsz: tuple[int, int] | None = None) -> FoldedTapModel:
        """The folded, truncated model; same signature as the reference. Folded block by block, in little memory."""
        return self.reference(imgsz, lean=True).deployed()

    def backbone(self, lean: bool = False) -> LoadedBackbone:
        """The blocks that the taps need, with their encoder and condition.

        The first call checks that the parts outside the bundle are those it was trained on; raises IntegrityError.
        """
        loaded = backbone_of(self.folder, self.record, lean, check=not self._checked)
        self._checked.add(loaded.source)
        return loaded


def tap_model(backbone: LoadedBackbone, head: Head, record: Bundle, imgsz: tuple[int, int] | None = None) -> TapModel:
    """The unfolded model that a record describes."""
    return TapModel(
        backbone.model,
        head,
        record.noise,
        record.taps,
        imgsz or record.imgsz,
        record.noise_seed,
        backbone.encoder,
        backbone.condition,
        record.noise_draws,
        record.discarded,
    )


def load_bundle(path: Path) -> LoadedBundle:
    """Open a bundle folder; raises InputError, RecordError or IntegrityError."""
    return LoadedBundle(path, read_bundle(path), Selection.load(path / SELECTION))


def save_bundle(folder: Path, record: Bundle, selection: Selection, model: TapModel) -> None:
    """Write a bundle atomically; the backbone's weights only if the record names a file for them.

    Weights are stored in float16, those with a value beyond its range in float32. The backbone is truncated after the
    deepest tap's block: later blocks cannot reach the taps.
    """
    with atomic_folder(folder, KIND) as temporary:
        selection.save(temporary / SELECTION)
        _save(model.head.state_dict(), temporary / HEAD)
        if record.backbone.condition is not None:
            save_condition(model.condition, temporary / record.backbone.condition)
        if record.backbone.file is not None:
            state = model.backbone.state_dict()
            cut = build(type(model.backbone), model.backbone.to_json(), 1 + max(tap.block for tap in record.taps))
            _save({theirs: state[ours] for ours, theirs in cut.keys().items()}, temporary / record.backbone.file)
        hashes = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        record.model_copy(update={"files": hashes}).save(temporary / RECORD)


def save_distilled(folder: Path, bundle: LoadedBundle, found: Distilled, state: Mapping[str, torch.Tensor]) -> None:
    """Write a bundle atomically with a distilled encoder beside what it has; `state` as `distilled_state` gives it."""
    with atomic_folder(folder, KIND) as temporary:
        for name in bundle.record.files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inside(bundle.folder, name), temporary / name)
        _save(state, temporary / found.file)
        hashes = {**bundle.record.files, found.file: sha256(temporary / found.file)}
        record = bundle.record.model_copy(update={"distilled": found, "files": hashes})
        record.save(temporary / RECORD)


def _save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    tensors = {k: v.detach().cpu() for k, v in state.items()}
    # BatchNorm's running variance can leave float16's range, so buffers and norms keep their type.
    half = {k: (v.half() if v.ndim > 1 and _fits_half(v) else v).clone() for k, v in tensors.items()}
    path.write_bytes(save(half, metadata={"format": "pt"}))


def _fits_half(values: torch.Tensor) -> bool:
    """Whether no value is beyond float16's range, where it would become infinite."""
    return bool(values.abs().max() <= torch.finfo(torch.float16).max) if values.numel() else True


def _load_head(head: Head, path: Path) -> None:
    try:
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        nn.Module.load_state_dict(head, state)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(
            f"{path}: not this head's weights ({reason}), expected the head that bundle.json describes; restore the "
            f"file or train again"
        ) from error
