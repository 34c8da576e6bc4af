"""Bundles: what was trained is what is loaded, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from safetensors import safe_open

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import SHIPPED, load_bundle, save_bundle, tap_model
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.records import BackboneSource, Bundle, ClassInfo, HeadSpec, Noise, Resize, Selection, Tap

NOISE = Noise(alpha=0.8, sigma=0.6, model_timestep=250)
TAPS = (Tap(block=0, component="mlp"), Tap(block=1, component="query"))
SELECTION = Selection(backbone="b", noise=NOISE, tap=TAPS[1], strategy="hfr")
HEAD = HeadSpec(kind="conv", channels=8)


def _record(backbone: Path, ships: bool) -> Bundle:
    model = load_backbone(str(backbone)).model
    return Bundle(
        task="seg",
        classes=(ClassInfo(name="a", colour=(0, 0, 0)), ClassInfo(name="b", colour=(9, 9, 9))),
        imgsz=(16, 24),
        resize=Resize(),
        backbone=BackboneSource(
            family="dit",
            config=model.to_json(),
            source=str(backbone),
            file="backbone.safetensors" if ships else None,
        ),
        taps=TAPS,
        noise=NOISE,
        head=HEAD,
    )


def _model(backbone: Path) -> TapModel:
    torch.manual_seed(3)
    dit = load_backbone(str(backbone)).model
    head = build_head(HEAD, "seg", [dit.width] * 2, 2)
    model = TapModel(dit, head, NOISE, TAPS, (16, 24), 0)
    model.train()
    model(torch.rand(4, 3, 16, 24) * 255)  # BatchNorm statistics of its own
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def saved(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TapModel]:
    folder = tmp_path_factory.mktemp("bundles") / "seg"
    model = _model(backbone_folder)
    save_bundle(folder, _record(backbone_folder, ships=True), SELECTION, model)
    return folder, model


@pytest.fixture
def bundle(saved: tuple[Path, TapModel], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved[0], tmp_path / "bundle"))


@torch.no_grad()
def test_what_is_loaded_equals_what_was_trained_rounded_to_half(saved: tuple[Path, TapModel]) -> None:
    folder, model = saved
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())
    loaded = load_bundle(folder)
    pixels = torch.rand(2, 3, 16, 24) * 255
    torch.testing.assert_close(loaded.reference()(pixels), model(pixels), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loaded.deployed()(pixels), loaded.reference()(pixels), rtol=1e-3, atol=1e-4)
    assert loaded.selection == SELECTION
    assert set(loaded.record.files) == {"selection.json", "head.safetensors", "backbone.safetensors"}


def test_another_size_is_asked_for_at_loading(saved: tuple[Path, TapModel]) -> None:
    deployed = load_bundle(saved[0]).deployed((20, 12))
    assert deployed(torch.rand(1, 3, 20, 12)).shape == (1, 2, 20, 12)


def test_only_the_blocks_up_to_the_deepest_tap_are_shipped(saved: tuple[Path, TapModel]) -> None:
    with safe_open(saved[0] / "backbone.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
    assert {name.split(".")[1] for name in names if name.startswith("transformer_blocks")} == {"0", "1"}
    assert not [name for name in names if name.startswith("proj_out")]


def test_a_frozen_backbone_is_read_from_where_it_came(backbone_folder: Path, tmp_path: Path) -> None:
    model = _model(backbone_folder)
    save_bundle(tmp_path / "bundle", _record(backbone_folder, ships=False), SELECTION, model)
    assert not (tmp_path / "bundle" / "backbone.safetensors").exists()
    pixels = torch.rand(1, 3, 16, 24) * 255
    reference = load_bundle(tmp_path / "bundle").reference()
    torch.testing.assert_close(reference(pixels), model(pixels), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors", "selection.json"])
def test_changed_truncated_and_missing_files_are_refused(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    for damaged in (content[:-1], content[:-1] + b"\1", b""):
        (bundle / name).write_bytes(damaged)
        with pytest.raises(IntegrityError, match=rf"{name}: got SHA-256"):
            load_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: file is missing"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors", "selection.json"])
def test_every_file_needs_a_hash(bundle: Path, name: str) -> None:
    record = Bundle.load(bundle / "bundle.json")
    files = {file: digest for file, digest in record.files.items() if file != name}
    record.model_copy(update={"files": files}).save(bundle / "bundle.json")
    with pytest.raises(IntegrityError, match=f"got no hash of {name}"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["head.safetensors", "backbone.safetensors"])
def test_weights_that_are_none_are_refused_even_with_their_hash(bundle: Path, name: str) -> None:
    record = Bundle.load(bundle / "bundle.json")
    content = (bundle / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:4]):
        (bundle / name).write_bytes(damaged)
        files = {**record.files, name: sha256(bundle / name)}
        record.model_copy(update={"files": files}).save(bundle / "bundle.json")
        with pytest.raises(IntegrityError, match=name):
            load_bundle(bundle).reference()


def test_a_head_of_another_shape_is_refused(bundle: Path) -> None:
    record = Bundle.load(bundle / "bundle.json")
    record.model_copy(update={"head": HeadSpec(kind="conv", channels=16)}).save(bundle / "bundle.json")
    with pytest.raises(IntegrityError, match="not this head's weights"):
        load_bundle(bundle).reference()


def test_a_backbone_file_outside_the_bundle_is_refused(bundle: Path) -> None:
    record = Bundle.load(bundle / "bundle.json")
    name = "../seg/backbone.safetensors"
    changes = {"backbone": record.backbone.model_copy(update={"file": name}), "files": {**record.files, name: "0" * 64}}
    record.model_copy(update=changes).save(bundle / "bundle.json")
    with pytest.raises(IntegrityError, match="inside the folder"):
        load_bundle(bundle).reference()


def test_folders_that_are_no_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder, expected a bundle .* check the path"):
        load_bundle(tmp_path / "none")
    with pytest.raises(InputError, match=r"got a folder without bundle\.json, expected a bundle .* check the path"):
        load_bundle(tmp_path)


def test_a_bundle_replaces_only_bundles(backbone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"bundle\.json"):
        save_bundle(tmp_path, _record(backbone_folder, ships=True), SELECTION, _model(backbone_folder))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_bundle_of_the_first_schema_still_loads(bundle: Path) -> None:
    record = json.loads((bundle / "bundle.json").read_text())
    for field in ("vae", "schedule", "label", "condition"):
        del record["backbone"][field]
    del record["noise_draws"], record["discarded"]
    (bundle / "bundle.json").write_text(json.dumps({**record, "schema": "bundle/1.0"}))
    loaded = load_bundle(bundle)
    assert loaded.record.schema_ == "bundle/1.5"
    assert loaded.backbone().condition["label"].tolist() == [3]
    assert loaded.deployed()(torch.rand(1, 3, 16, 24) * 255).shape == (1, 2, 16, 24)


def test_the_shipped_bundle_keeps_its_schedule() -> None:
    config = load_bundle(SHIPPED["seg"]).backbone().schedule.config
    assert config["beta_schedule"] == "squaredcos_cap_v2"


@pytest.fixture(scope="module")
def latent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline on latents: a DiT of random weights, and an autoencoder of stride 2."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    config = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "norm_type": "ada_norm_zero"}
    transformer = DiTTransformer2DModel(**config, in_channels=4, sample_size=8, patch_size=2, num_embeds_ada_norm=3)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    for parameter in (*transformer.parameters(), *vae.parameters()):
        torch.nn.init.normal_(parameter, std=0.15)
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    DDPMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    return folder


def _latent(source: Path, ships: bool, **options: Any) -> tuple[Bundle, TapModel]:
    backbone = load_backbone(str(source), **options)
    origin = BackboneSource(
        family="dit",
        config=backbone.model.to_json(),
        source=backbone.source,
        file="backbone.safetensors" if ships else None,
        schedule=backbone.schedule.config,
        vae=backbone.vae,
        label=backbone.label,
        condition="condition.safetensors",
    )
    record = _record(source, ships).model_copy(update={"backbone": origin, "noise_draws": 2})
    torch.manual_seed(3)
    head = build_head(HEAD, "seg", [backbone.model.width] * 2, 2)
    return record, tap_model(backbone, head, record).eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("ships", [True, False])
@pytest.mark.parametrize("label", [None, 1])
def test_a_model_on_latents_takes_frames(latent_folder: Path, tmp_path: Path, ships: bool, label: int | None) -> None:
    record, model = _latent(latent_folder, ships, label=label)
    save_bundle(tmp_path / "bundle", record, SELECTION, model)
    loaded = load_bundle(tmp_path / "bundle")
    assert "condition.safetensors" in loaded.record.files
    pixels = torch.rand(2, 3, 16, 24) * 255
    reference = loaded.reference()
    torch.testing.assert_close(reference(pixels), model(pixels), rtol=0.02, atol=0.02)  # stored in half precision
    deployed = loaded.deployed()
    error = (deployed(pixels) - reference(pixels)).abs().max() / reference(pixels).abs().max()
    assert error < 1e-4
    assert loaded.backbone().condition["label"].tolist() == [3 if label is None else label]
    assert loaded.backbone().schedule.config["beta_schedule"] == "scaled_linear"
    assert deployed.backbone.get_submodule("embed").draws == 2


@torch.no_grad()
def test_a_bundle_is_a_backbone_too(latent_folder: Path, tmp_path: Path) -> None:
    record, model = _latent(latent_folder, ships=True, label=2)
    save_bundle(tmp_path / "bundle", record, SELECTION, model)
    backbone = load_backbone(str(tmp_path / "bundle"))
    assert backbone.source == str(tmp_path / "bundle")
    assert backbone.model.depth == 2  # the blocks that its taps need
    assert backbone.condition["label"].tolist() == [2]
    assert backbone.side == 16


@pytest.mark.parametrize("name", ["../condition.safetensors", "/condition.safetensors"])
def test_a_condition_outside_the_bundle_is_refused(bundle: Path, name: str) -> None:
    record = Bundle.load(bundle / "bundle.json")
    changes = {"backbone": record.backbone.model_copy(update={"condition": name}), "files": record.files}
    record.model_copy(update=changes).save(bundle / "bundle.json")
    with pytest.raises(IntegrityError, match="got no hash of"):
        load_bundle(bundle)
