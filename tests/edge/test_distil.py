"""Distillation on tiny models: the stem learns, the bundle keeps all it had, runs go on, bad input is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle import LoadedBundle, TapModel, load_bundle, save_bundle, tap_model
from aselect_edge.bundle.distilled import DistilledTapModel, token_shape
from aselect_edge.commands.distil import distil as distil_command
from aselect_edge.distillation import distil
from aselect_edge.distillation.learner import StemLearner
from aselect_edge.distillation.run import RECIPE
from aselect_edge.distillation.views import open_views
from aselect_edge.heads import build_head
from aselect_edge.training.loop import learn
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.frames import read_image, resize
from aselect_runtime.progress import silent
from aselect_runtime.records import (
    BackboneSource,
    Bundle,
    ClassInfo,
    HeadSpec,
    Noise,
    Resize,
    Selection,
    StemSpec,
    Tap,
)
from aselect_runtime.scenes import CLASSES, COLOURS, Street
from tests.bundles import command, write_bundle
from tests.edge import test_encoders
from tests.edge.taesd import load_taesd

SIZE = (24, 32)
TAP = Tap.parse("1.query")
NOISE = Noise(alpha=0.9, sigma=0.3, model_timestep=50)
BRIEF: dict[str, Any] = {"samples": 96, "batch": 8, "width": 16, "blocks": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 streets without labels."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(24):
        cv2.imwrite(str(folder / f"{seed:02}.png"), Street(seed, 48, 64).frame(40)[0])
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a DiT on the latents of an AutoencoderKL, as diffusers wrote both."""
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    options = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "num_embeds_ada_norm": 3}
    model = DiTTransformer2DModel(**options, in_channels=4, sample_size=8, patch_size=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder / "transformer")
    test_encoders.random(AutoencoderKL(**test_encoders.KL)).save_pretrained(folder / "vae")
    backbone = load_backbone(str(folder))
    record = Bundle(
        task="seg",
        classes=tuple(ClassInfo(name=n, colour=c) for n, c in zip(CLASSES, COLOURS, strict=True)),
        imgsz=SIZE,
        resize=Resize(),
        backbone=BackboneSource(family="dit", config=backbone.model.to_json(), source=str(folder)),
        taps=(TAP,),
        noise=NOISE,
        head=HeadSpec(kind="linear", channels=1),
    )
    head = build_head(record.head, "seg", [24], len(CLASSES))
    for parameter in head.body.parameters():  # decided answers, as those of a trained head are
        nn.init.normal_(parameter)
    selection = Selection(backbone=str(folder), noise=NOISE, tap=TAP, strategy="manual")
    save_bundle(folder / "bundle", record, selection, tap_model(backbone, head, record))
    return folder / "bundle"


def answers(model: TapModel, images: Path) -> Tensor:
    frames = np.stack([resize(read_image(path), SIZE, Resize()) for path in sorted(images.iterdir())])
    with torch.no_grad():
        logits: Tensor = model.eval()(to_pixels(frames))
    return logits.argmax(1)


def test_a_stem_learns_and_the_bundle_keeps_all_it_had(bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "distilled"
    found = distil(bundle, images, out, samples=1600, width=32, blocks=1, lr=5e-3)
    first, last = found.curve[0], found.curve[-1]
    assert last[1] < first[1]
    assert found.record.explained == max(row[2] for row in found.curve)
    assert found.record.agreement > 0.8
    assert 0.5 < found.record.explained <= 1
    assert found.record.data.images == 24
    for path in bundle.iterdir():
        if path.name != "bundle.json":
            assert (out / path.name).read_bytes() == path.read_bytes()
    loaded = load_bundle(out)
    assert loaded.record == load_bundle(bundle).record.model_copy(
        update={"distilled": found.record, "files": loaded.record.files}
    )
    assert loaded.record.files["distilled.safetensors"] == sha256(out / "distilled.safetensors")
    full = answers(loaded.reference(), images)
    assert torch.equal(full, answers(load_bundle(bundle).reference(), images))
    stem = answers(loaded.with_encoder("distilled").reference(), images)
    assert (stem == full).float().mean() > 0.8
    kept = {path.name for path in (tmp_path / "distilled.training").iterdir()}
    assert kept == {"checkpoint.pt", "curve.csv", "curve.png", "features"}


def test_the_bundle_itself_may_be_the_place(bundle: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    found = distil(tmp_path / "bundle", images, tmp_path / "bundle", **BRIEF)
    assert load_bundle(tmp_path / "bundle").record.distilled == found.record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.training"]


def test_an_interrupted_run_goes_on_to_the_same_bytes(bundle: Path, images: Path, tmp_path: Path) -> None:
    whole = distil(bundle, images, tmp_path / "whole", **BRIEF)
    steps = 0

    def interrupt(what: str, _share: float) -> None:
        nonlocal steps
        steps += what.startswith("train")
        if steps == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(bundle, images, tmp_path / "cut", **BRIEF, progress=interrupt)
    assert not (tmp_path / "cut").exists()
    resumed: list[str] = []
    again = distil(bundle, images, tmp_path / "cut", **BRIEF, progress=lambda what, _: resumed.append(what))
    assert sum(what.startswith("train") for what in resumed) == 12 - 6
    assert again.curve == whole.curve
    name = "distilled.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(InputError, match="a checkpoint of another"):
        distil(bundle, images, tmp_path / "cut", **BRIEF | {"width": 24})


def test_frames_of_a_video_serve(bundle: Path, clip: Path, tmp_path: Path) -> None:
    found = distil(bundle, clip, tmp_path / "out", **BRIEF)
    assert found.record.data.images == 12
    assert not found.record.labelled


def test_labels_of_the_bundles_classes_train_the_head(bundle: Path, street_data: Path, tmp_path: Path) -> None:
    for seed in range(6, 12):  # six images are too few
        image, label = Street(seed, 48, 64).frame(40)
        for kind, content in (("images", image), ("labels", label)):
            place = tmp_path / "data" / "train" / kind
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{seed}.png"), content)
    shutil.copytree(street_data, tmp_path / "data", dirs_exist_ok=True)
    with_labels = distil(bundle, tmp_path / "data", tmp_path / "with", **BRIEF)
    without = distil(bundle, tmp_path / "data/train/images", tmp_path / "without", **BRIEF)
    assert with_labels.record.labelled
    assert not without.record.labelled
    assert (tmp_path / "with.training/labels/checkpoint.pt").is_file()
    heads = [load_file(tmp_path / name / "distilled.safetensors") for name in ("with", "without")]
    stem = [name for name in heads[0] if name.startswith("stem.")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in stem)


def test_a_model_on_pixels_gets_a_stem_and_a_note_where_it_costs_more(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = distil(write_bundle(tmp_path / "bundle"), images, tmp_path / "out", samples=16, batch=8, width=64, blocks=1)
    assert found.record.replaces == "the patch embedding"
    assert found.record.stem.stride == 8
    tokens, patch = 6 * 8, 8 * 8 * 3
    assert found.record.full.macs == tokens * patch * 32
    assert found.record.cost.macs > found.record.full.macs
    assert "make it narrower" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", 0), ("width", 4), ("blocks", 65), ("samples", -1), ("batch", 2.5), ("lr", 3.0), ("patience", -1)],
)
def test_numbers_out_of_range_are_named(bundle: Path, images: Path, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"got {name} {re.escape(str(value))}, expected"):
        distil(bundle, images, tmp_path / "out", **{name: value})  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_images_are_refused_before_anything_is_written(bundle: Path, tmp_path: Path, count: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(count):
        cv2.imwrite(str(data / f"{seed}.png"), Street(seed, 48, 64).frame(40)[0])
    with pytest.raises(InputError, match=r"got 9 images to distil on, expected at least 10" if count else "no image"):
        distil(bundle, data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no/such/bundle", "--data", "DATA"], "no such folder, expected a bundle"),
        (["BUNDLE", "--data", "no/such/data"], "no such folder"),
        (["BUNDLE", "--data", "DATA", "--device", "abacus"], "got the device 'abacus'"),
        (["BUNDLE", "--data", "DATA", "--out", "DATA"], "has no bundle.json"),
        (["BUNDLE", "--data", "DATA", "--images", "5"], r"got 5 images .*\(--data, --images\)"),
    ],
)
def test_the_command_reports_an_error_in_one_line(
    arguments: list[str],
    told: str,
    bundle: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import re

    filled = [{"BUNDLE": str(bundle), "DATA": str(images)}.get(word, word) for word in arguments]
    if "--out" not in arguments:
        filled += ["--out", str(tmp_path / "new" / "out")]
    assert command(distil_command, monkeypatch, *filled) == 1
    said = capfd.readouterr()
    assert said.out == ""
    error = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert re.search(told, error[0])
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_was_replaced_and_what_comes_next(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--samples", "16", "--batch", "8", "--width", "16", "--blocks", "0", "--out", str(tmp_path / "out")]
    assert command(distil_command, monkeypatch, str(bundle), "--data", str(images), *options) == 0
    said = capfd.readouterr().out
    assert "replaces AutoencoderKL and the patch embedding" in said
    assert f"aselect-export --model {tmp_path / 'out'} --encoder distilled" in said
    assert command(distil_command, monkeypatch, str(bundle), "--data", str(images), *options, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["stem"] == {"stride": 4, "outputs": 24, "width": 16, "blocks": 0}


def tampered(bundle: Path, out: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> LoadedBundle:
    """A distilled bundle with other weights and a hash that fits them."""
    shutil.copytree(bundle, out)
    save_file(change(load_file(out / "distilled.safetensors")), out / "distilled.safetensors")
    record = Bundle.load(out / "bundle.json")
    files = {**record.files, "distilled.safetensors": sha256(out / "distilled.safetensors")}
    record.model_copy(update={"files": files}).save(out / "bundle.json")
    return load_bundle(out)


def test_what_is_not_this_models_stem_is_refused(bundle: Path, images: Path, tmp_path: Path) -> None:
    place = tmp_path / "distilled"
    distil(bundle, images, place, **BRIEF)
    for name, change in {
        "fewer": lambda state: {k: v for k, v in state.items() if k != "stem.shift"},
        "wider": lambda state: {**state, "stem.shift": torch.zeros(25)},
        "headless": lambda state: {k: v for k, v in state.items() if not k.startswith("head.")},
    }.items():
        loaded = tampered(place, tmp_path / name, change)
        loaded.reference()  # the full one is whole
        with pytest.raises(IntegrityError, match=r"distilled\.safetensors: not this model's distilled encoder"):
            loaded.with_encoder("distilled").reference()
    loaded = load_bundle(place)
    found = loaded.record.distilled
    assert found is not None
    other = found.model_copy(update={"stem": found.stem.model_copy(update={"stride": 8})})
    strange = replace(loaded, record=loaded.record.model_copy(update={"distilled": other}))
    with pytest.raises(IntegrityError, match="distil again"):
        strange.with_encoder("distilled").reference()
    (place / "distilled.safetensors").write_bytes((place / "distilled.safetensors").read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"distilled\.safetensors"):
        load_bundle(place)


def test_a_bundle_without_a_stem_has_none_to_deploy(bundle: Path) -> None:
    with pytest.raises(InputError, match="expected one that aselect-distil wrote"):
        load_bundle(bundle).with_encoder("distilled")


def test_older_bundles_load(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "old")
    content = json.loads((bundle / "bundle.json").read_text())
    del content["distilled"]
    (tmp_path / "old/bundle.json").write_text(json.dumps({**content, "schema": "bundle/1.3"}))
    assert load_bundle(tmp_path / "old").record == load_bundle(bundle).record


def test_a_tiny_autoencoder_is_deployed_with_its_own_scale(bundle: Path, tmp_path: Path) -> None:
    options = test_encoders.TINY | {"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
    tiny = test_encoders.random(AutoencoderTiny(**options, scaling_factor=0.7))
    tiny.save_pretrained(tmp_path / "tiny")
    loaded = load_bundle(bundle)
    model = loaded.with_encoder("tiny", str(tmp_path / "tiny")).reference()
    pixels = torch.rand(2, 3, *SIZE) * 255
    latents = 0.7 * tiny.encode(pixels.flip(1) / 127.5 - 1).latents
    full = loaded.reference()
    with torch.no_grad():
        (expected,) = full.features_of(latents)
        torch.testing.assert_close(model.features(pixels)[0], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.deployed().features(pixels)[0], expected, rtol=1e-4, atol=1e-4)


def test_other_autoencoders_are_no_tiny_ones(bundle: Path, tmp_path: Path) -> None:
    test_encoders.random(AutoencoderTiny(**test_encoders.TINY)).save_pretrained(tmp_path / "tiny")
    loaded = load_bundle(bundle)
    with pytest.raises(InputError, match="got an AutoencoderTiny of 4 channels and stride 4, expected 4 and 2"):
        loaded.with_encoder("tiny", str(tmp_path / "tiny")).reference()
    with pytest.raises(InputError, match="got AutoencoderKL, expected AutoencoderTiny"):
        loaded.with_encoder("tiny", str(bundle.parent)).reference()
    with pytest.raises(InputError, match="whose encoder is pixels, expected AutoencoderKL"):
        load_bundle(write_bundle(tmp_path / "pixels")).with_encoder("tiny", str(tmp_path / "tiny")).reference()
    for encoder, vae in (("tiny", None), ("full", "x")):
        with pytest.raises(InputError, match="expected one with the encoder tiny alone"):
            loaded.with_encoder(encoder, vae)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "stride"), [("taef2_encoder", 8), ("taesana_encoder", 32)])
def test_a_stem_learns_a_real_encoder(name: str, stride: int, images: Path, tmp_path: Path) -> None:
    """Real latents of real weights: a briefly trained stem explains more of the features than none of the image can."""
    path = Path(os.environ.get("ASELECT_DATA", "none")) / "taesd" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("needs ASELECT_DATA with taesd/")
    torch.manual_seed(0)
    backbone = DiT(DiTConfig(2, 16, in_channels=32, num_layers=2, patch_size=1, sample_size=8, num_embeds_ada_norm=3))
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.1)
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [32], 4)
    size = (2 * stride, 3 * stride) if stride == 32 else (48, 64)
    full = TapModel(backbone, head, NOISE, [TAP], size, 0, load_taesd(path)).eval()
    recipe = replace(RECIPE, samples=640, batch=8, learning_rate=5e-3)
    assert token_shape(full) == (stride, 32)
    spec = StemSpec(stride=stride, outputs=32, width=32, blocks=1)
    views = open_views(images, 24, size, Resize(), recipe, "seg")
    learner = StemLearner(full, "seg", spec, views, recipe, tmp_path / "features", silent, torch.device("cpu"))
    before = learner.validate(learner.module)
    state = learn(learner, recipe, "one", tmp_path, silent)
    learner.module.load_state_dict(state.best_weights)
    after = learner.validate(learner.module)
    assert after.explained > before.explained + 0.2
    assert after.explained > 0.5
    assert learner.cost.macs < learner.full_cost.macs / 20
    stem, trained = learner.parts()
    full.head.load_state_dict(trained.state_dict())
    distilled = DistilledTapModel(full, stem).eval()
    pixels = torch.rand(1, 3, *size) * 255
    with torch.no_grad():
        torch.testing.assert_close(distilled.deployed()(pixels), distilled(pixels), rtol=1e-4, atol=1e-4)


def test_what_is_discarded_is_so_while_the_stem_learns(bundle: Path, images: Path, tmp_path: Path) -> None:
    """A mask that the fold leaves in the graph, as of a residual stream, belongs to teacher and stem alike."""
    whole = load_bundle(bundle).reference()
    taps, discarded = [Tap.parse("0.hidden"), TAP], [(1, 5), (2,)]
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [24, 24], 4)
    full = TapModel(whole.backbone, head, NOISE, taps, SIZE, 0, whole.encoder, discarded=discarded).eval()
    recipe = replace(RECIPE, samples=8, batch=4)
    stride, outputs = token_shape(full)
    views = open_views(images, 24, SIZE, Resize(), recipe, "seg")
    spec = StemSpec(stride=stride, outputs=outputs, width=8, blocks=1)
    learner = StemLearner(full, "seg", spec, views, recipe, tmp_path / "features", silent, torch.device("cpu"))
    maps, frames = next(iter(learner.held_out.parts(2)))
    pixels = to_pixels(frames.numpy())
    with torch.no_grad():
        for seen, expected in zip(maps[1:], full.features(pixels), strict=True):
            torch.testing.assert_close(seen, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))
        (_, *features), _ = learner._run(learner.module, frames)
    for of_tap in (maps[1:], features):
        assert not any(each[..., list(of)].any() for each, of in zip(of_tap, discarded, strict=True))
