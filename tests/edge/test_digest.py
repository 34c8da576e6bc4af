"""Caches, bundles and selections are of what a backbone holds: whatever decides features makes another digest."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.digest import backbone_digest, encoder_digest, tensors_digest, weights_digest
from aselect_edge.backbones.noise import DIT_SCHEDULE, DiffusionSchedule, FlowSchedule
from aselect_edge.backbones.sit import PathSchedule, SiT
from aselect_edge.bundle import load_bundle, save_bundle, tap_model
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_edge.selection import Request, Settings, select_tap
from aselect_edge.selection.evidence import NO_IMAGES, Evidence
from aselect_edge.selection.run import _store, prepare_scan
from aselect_edge.team import Team
from aselect_edge.training.finetune import Unfreeze
from aselect_edge.training.identity import Digests, features_digest, run_identity
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.request import TrainRequest
from aselect_edge.training.run import bundle_record, check_selection
from aselect_runtime.errors import IntegrityError
from aselect_runtime.records import Bundle, ClassInfo, HeadSpec, Noise, Resize, Selection, Tap

NOISE = Noise(alpha=0.8, sigma=0.6, model_timestep=250)
TAP = Tap(block=1, component="query")
CLASSES = (ClassInfo(name="a", colour=(0, 0, 0)), ClassInfo(name="b", colour=(9, 9, 9)))
HEAD = HeadSpec(kind="linear", channels=8)
CONFIG: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    "in_channels": 4,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 3,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline on latents."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(**CONFIG, norm_type="ada_norm_zero")
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    transformer.save_pretrained(tmp_path / "pipe" / "transformer")
    vae.save_pretrained(tmp_path / "pipe" / "vae")
    DDPMScheduler().save_pretrained(tmp_path / "pipe" / "scheduler")
    return tmp_path / "pipe"


def _bundle(folder: Path, out: Path) -> Bundle:
    """A bundle of a frozen backbone, as training records and saves it."""
    backbone = load_backbone(str(folder))
    selection = Selection(backbone=backbone.source, noise=NOISE, tap=TAP, strategy="fixed")
    record = bundle_record(TrainRequest("seg", backbone, selection, folder, out), backbone, CLASSES, [TAP], HEAD)
    model = tap_model(backbone, build_head(HEAD, "seg", [32], 2), record)
    save_bundle(out, record, selection, model)
    return load_bundle(out).record


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _add(path: Path, name: str, most: float = 0.01) -> None:
    state = load_file(path)
    state[name] = state[name] + most
    save_file(state, path, metadata={"format": "pt"})


CHANGES: list[tuple[str, Any, str]] = [
    (
        "heads",
        lambda f: _edit(f / "transformer/config.json", num_attention_heads=4, attention_head_dim=8),
        "got attention_head_dim = 8, expected 16: the backbone's configuration has changed",
    ),
    ("eps", lambda f: _edit(f / "transformer/config.json", norm_eps=1e-3), r"got norm_eps = 0\.001, expected 1e-05"),
    ("size", lambda f: _edit(f / "transformer/config.json", sample_size=16), "got sample_size = 16, expected 8"),
    (
        "a block",
        lambda f: _add(f / "transformer" / WEIGHTS, "transformer_blocks.1.attn1.to_q.weight"),
        "the backbone has changed since the bundle was trained on it; restore it or train again",
    ),
    ("the first layer", lambda f: _add(f / "transformer" / WEIGHTS, "pos_embed.proj.bias"), "backbone has changed"),
    ("scaling", lambda f: _edit(f / "vae/config.json", scaling_factor=0.3), "the autoencoder has changed"),
    ("shift", lambda f: _edit(f / "vae/config.json", shift_factor=0.1), "the autoencoder has changed"),
    ("vae", lambda f: _add(f / "vae" / WEIGHTS, "encoder.conv_in.bias"), "the autoencoder has changed"),
]


@pytest.mark.parametrize(("change", "message"), [(c, m) for _, c, m in CHANGES], ids=[name for name, _, _ in CHANGES])
def test_a_frozen_bundle_refuses_a_backbone_that_was_changed(
    folder: Path, tmp_path: Path, change: Any, message: str
) -> None:
    _bundle(folder, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").deployed()(torch.rand(1, 3, 16, 16)).shape[:2] == (1, 2)
    change(folder)
    with pytest.raises(IntegrityError, match=message):
        load_bundle(tmp_path / "bundle").deployed()
    with pytest.raises(IntegrityError, match=message):
        load_backbone(str(tmp_path / "bundle"))


@pytest.mark.parametrize("change", [c for _, c, _ in CHANGES], ids=[name for name, _, _ in CHANGES])
def test_cached_features_are_of_all_that_decides_them(folder: Path, change: Any) -> None:
    def digest() -> str:
        backbone = load_backbone(str(folder))
        record = bundle_record(
            TrainRequest(
                "seg", backbone, Selection(backbone="", noise=NOISE, tap=TAP, strategy="fixed"), folder, folder
            ),
            backbone,
            CLASSES,
            [TAP],
            HEAD,
        ).model_copy(update={"imgsz": (16, 16)})
        return features_digest(tap_model(backbone, build_head(HEAD, "seg", [32], 2), record))

    before = digest()
    assert digest() == before
    change(folder)
    assert digest() != before


def test_what_a_bundle_does_not_need_may_change(folder: Path, tmp_path: Path) -> None:
    """Blocks beyond the tap, the file's format and precision-free conversions, what diffusers notes for itself."""
    _bundle(folder, tmp_path / "bundle")
    transformer = folder / "transformer"
    _add(transformer / WEIGHTS, "transformer_blocks.2.attn1.to_q.weight")
    _edit(transformer / "config.json", _diffusers_version="9.9")
    torch.save(load_file(transformer / WEIGHTS), transformer / "diffusion_pytorch_model.bin")
    (transformer / WEIGHTS).unlink()
    load_bundle(tmp_path / "bundle").deployed()


def test_an_older_bundle_loads_with_a_note(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _bundle(folder, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    content = json.loads(path.read_text())
    assert content["schema"] == "bundle/1.5"
    for key in ("weights_sha256", "vae_sha256"):
        del content["backbone"][key]
    path.write_text(json.dumps({**content, "schema": "bundle/1.2"}))
    bundle = load_bundle(tmp_path / "bundle")
    with caplog.at_level(logging.WARNING):
        bundle.reference()
        bundle.deployed()
    notes = [record.getMessage() for record in caplog.records]
    assert [("holds no digest of its backbone" in note, "digest of its autoencoder" in note) for note in notes] == [
        (True, False),
        (False, True),
    ]


def test_a_lean_model_has_the_digest_of_a_whole_one(folder: Path) -> None:
    whole, lean = (load_backbone(str(folder), lean=lean).model for lean in (False, True))
    cut = load_backbone(str(folder), depth=2).model
    assert weights_digest(whole) == weights_digest(lean)
    assert weights_digest(whole, 2) == weights_digest(lean, 2) == weights_digest(cut, 2) != weights_digest(whole)


def test_families_of_the_same_weights_differ(folder: Path) -> None:
    backbone = load_backbone(str(folder))
    sit = build(SiT, CONFIG)
    sit.load_state_dict(backbone.model.state_dict(), assign=True)
    assert weights_digest(sit) == weights_digest(backbone.model)
    assert backbone_digest(sit, backbone.encoder) != backbone_digest(backbone.model, backbone.encoder)
    other = {"label": torch.tensor([1])}
    digests = [backbone_digest(backbone.model, backbone.encoder, given) for given in (None, backbone.condition, other)]
    assert len(set(digests)) == 3
    assert encoder_digest(backbone.encoder) == encoder_digest(load_backbone(str(folder)).encoder)


def test_a_selection_of_another_backbone_gives_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    backbone = load_backbone(str(folder))
    made = Selection(
        backbone=backbone.source,
        backbone_sha256=backbone_digest(backbone.model, backbone.encoder, depth=2),
        noise=NOISE,
        tap=TAP,
        strategy="fixed",
    )

    def warned(selection: Selection, source: Path, depth: int | None = 2) -> str:
        caplog.clear()
        check_selection(selection, load_backbone(str(source), depth=depth))
        return "".join(record.getMessage() for record in caplog.records)

    old = made.model_copy(update={"backbone_sha256": None})
    assert warned(made, folder) == warned(made, moved) == warned(made, folder, None) == warned(old, folder) == ""
    assert "not on" in warned(old, moved)
    _add(folder / "transformer" / WEIGHTS, "transformer_blocks.0.attn1.to_q.weight")
    assert "on an earlier version of" in warned(made, folder)
    _add(moved / "transformer" / WEIGHTS, "transformer_blocks.0.attn1.to_q.weight", 0.02)
    assert f"not on {moved}" in warned(made, moved)
    flow = made.model_copy(update={"noise": Noise(alpha=0.9, sigma=0.1, model_timestep=100)})
    assert "sigma 0.1, timestep 100, but this backbone has alpha^2 + sigma^2 = 1" in warned(flow, moved)


def test_a_selection_records_what_it_was_made_of_and_a_scan_too(folder: Path, tmp_path: Path) -> None:
    request = Request(strategy="fixed", timesteps=[300], settings=Settings(tap=TAP))

    def key() -> str:
        scan = prepare_scan(load_backbone(str(folder)), request, Team())
        return _store(scan, Evidence(NO_IMAGES), request, tmp_path / "selection.json").key

    backbone = load_backbone(str(folder))
    selection = select_tap(backbone, request=request)
    assert selection.backbone_sha256 == backbone_digest(backbone.model, backbone.encoder, depth=2)
    before = key()
    assert key() == before
    _edit(folder / "transformer/config.json", num_attention_heads=4, attention_head_dim=8)
    assert key() != before
    assert select_tap(str(folder), request=request).backbone_sha256 != selection.backbone_sha256


def test_a_checkpoint_of_fine_tuning_is_of_its_schedule(folder: Path) -> None:
    backbone = load_backbone(str(folder))
    model = TapModel(
        backbone.model,
        build_head(HEAD, "seg", [32], 2),
        NOISE,
        [TAP],
        (16, 16),
        0,
        backbone.encoder,
        backbone.condition,
    )
    digests = Digests(features_digest(model), "0" * 64, "1" * 64)

    def identity(schedule: dict[str, Any], unfreeze: Unfreeze | None) -> str:
        return run_identity(model, digests, Resize(), Recipe(), unfreeze, schedule)

    linear, cosine = {**DIT_SCHEDULE}, {**DIT_SCHEDULE, "beta_schedule": "squaredcos_cap_v2"}
    assert identity(linear, None) == identity(cosine, None)  # a frozen backbone denoises nothing
    assert identity(linear, Unfreeze()) != identity(cosine, Unfreeze())


def test_noise_of_another_path_is_reported() -> None:
    sd3, sit, ddpm = FlowSchedule(), PathSchedule(), DiffusionSchedule()
    of_sd3 = Noise(alpha=0.95, sigma=0.05, model_timestep=50)
    of_sit = Noise(alpha=0.95, sigma=0.05, model_timestep=0.95)
    (of_ddpm,) = ddpm.levels([300])
    assert (sd3.lacks(of_sd3), sit.lacks(of_sit), ddpm.lacks(of_ddpm)) == (None, None, None)
    assert sd3.lacks(of_sit) == "the timestep 50"
    assert sit.lacks(of_sd3) == "the timestep 0.95"
    assert sd3.lacks(of_ddpm) == sit.lacks(of_ddpm) == "alpha + sigma = 1"
    cosine = PathSchedule("sigma", "cosine")
    assert [cosine.lacks(noise) for noise in cosine.levels([0, 130, 1000])] == [None] * 3
    assert cosine.lacks(of_sit) == "alpha^2 + sigma^2 = 1"
    assert ddpm.lacks(of_sd3) == "alpha^2 + sigma^2 = 1"
    assert FlowSchedule(steps=500).lacks(of_sd3) == "the timestep 25"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=12), st.data())
def test_a_digest_is_of_names_shapes_and_values(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor(values)
    pairs = [("a", tensor), ("b", tensor + 1)]
    digest = tensors_digest(pairs)
    assert tensors_digest(reversed(pairs)) == digest
    assert tensors_digest([("a", tensor.double()), ("b", tensor + 1)]) == digest
    assert tensors_digest([("b", tensor), ("a", tensor + 1)]) != digest
    assert tensors_digest([("a", tensor[None]), ("b", tensor + 1)]) != digest
    changed = tensor.clone()
    index = data.draw(st.integers(0, len(values) - 1))
    changed[index] = changed[index] + 1
    assert tensors_digest([("a", changed), ("b", tensor + 1)]) != digest
