"""Clean features: the copy comes nearer to the noisy features, and noise no longer decides an answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from aselect_edge import api
from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.bundle import load_bundle, tap_model
from aselect_edge.bundle.folder import LoadedBundle
from aselect_edge.commands.train import train as train_command
from aselect_edge.training.clean import STRATA, Adapter, _stratified
from aselect_runtime.errors import InputError, IntegrityError, RecordError
from aselect_runtime.frames import read_image
from aselect_runtime.records import Bundle, Noise, Selection, Tap
from tests.bundles import command
from tests.export.test_families import bundle_of

SIZE = (48, 64)
NOISE = Noise(alpha=0.8, sigma=0.6, model_timestep=300)
TAP = Tap.parse("1.mlp")
BRIEF: dict[str, Any] = {"imgsz": SIZE, "head": "linear", "samples": 8, "clean": True, "clean_samples": 32}

pytestmark = pytest.mark.usefixtures("undrawn")


def selection(source: str) -> Selection:
    return Selection(backbone=source, noise=NOISE, tap=TAP, strategy="manual")


@pytest.fixture(scope="module")
def cleaned(backbone_folder: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    out = tmp_path_factory.mktemp("clean") / "bundle"
    options = BRIEF | {"clean_samples": 480, "clean_lr": 2e-3}
    api.train(str(backbone_folder), selection(str(backbone_folder)), street_data, out, **options)
    return load_bundle(out)


def frames(data: Path) -> Tensor:
    """The images of val, RGB in -1..1, (N, 3, H, W)."""
    images = np.stack([read_image(path) for path in sorted((data / "val/images").iterdir())])
    return torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def features(backbone: LoadedBackbone, x: Tensor) -> Tensor:
    """The tap's tokens (N, T, D) of any input, at the selected timestep."""
    label = torch.full((len(x),), 3)  # "no class" of three
    timestep = torch.full((len(x),), NOISE.model_timestep)
    return backbone.model.features(x, timestep, {"label": label}, (TAP,))[TAP]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(((a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))).mean())


def test_the_clean_backbone_comes_nearer_to_the_noisy_features(
    cleaned: LoadedBundle, backbone_folder: Path, street_data: Path
) -> None:
    x0, original = frames(street_data), load_backbone(str(backbone_folder))
    generator = torch.Generator().manual_seed(7)
    noisy = [
        features(original, NOISE.alpha * x0 + NOISE.sigma * torch.randn(x0.shape, generator=generator))
        for _ in range(8)
    ]
    mean = torch.stack(noisy).mean(0)
    before, after = (cosine(features(one, x0), mean) for one in (original, cleaned.backbone()))
    assert after > before + 0.01
    record = cleaned.record.clean
    assert record is not None
    assert record.cosine > record.before
    assert (record.noise, record.levels, record.samples) == (NOISE, "selected", 480)


def test_the_record_says_so_and_its_hashes_cover_the_weights(
    cleaned: LoadedBundle, backbone_folder: Path, tmp_path: Path
) -> None:
    record = cleaned.record
    assert record.noise == Noise(alpha=1, sigma=0, model_timestep=NOISE.model_timestep)
    assert (record.noise_seed, record.noise_draws) == (None, 1)
    assert cleaned.selection.noise == NOISE, "what was selected stays on record"
    assert record.backbone.file in record.files
    own = load_file(cleaned.folder / "backbone.safetensors")
    first = load_file(backbone_folder / "transformer/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(value, first[name].half()) for name, value in own.items() if value.ndim > 1)
    assert not any("adapter" in name for name in own)
    copy = shutil.copytree(cleaned.folder, tmp_path / "copy")
    content = bytearray((copy / "backbone.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "backbone.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError):
        load_bundle(copy)


def spread(bundle: LoadedBundle, noise: Noise, pixels: Tensor) -> float:
    """Largest variance over five draws of the noise, of any logit."""
    logits = []
    for seed in range(5):
        record = bundle.record.model_copy(update={"noise_seed": seed, "noise": noise, "clean": None})
        model = bundle.reference()
        with torch.no_grad():
            logits.append(tap_model(bundle.backbone(), model.head, record).eval()(pixels))
    return float(torch.stack(logits).var(0).max())


def test_no_draw_of_the_noise_decides_an_answer(cleaned: LoadedBundle) -> None:
    pixels = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 255
    assert spread(cleaned, cleaned.record.noise, pixels) == 0
    assert spread(cleaned, NOISE, pixels) > 0
    with torch.no_grad():
        expected, folded = cleaned.reference()(pixels), cleaned.deployed()(pixels)
    assert (folded - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", ["dit", "sit", "sd3", "pixart"])
@pytest.mark.parametrize("levels", ["selected", "sampled"])
def test_every_family_can_learn(family: str, levels: str, street_data: Path, tmp_path: Path) -> None:
    backbone = bundle_of(family, tmp_path).backbone()
    out = tmp_path / "clean"
    options = BRIEF | {"clean_samples": 8, "clean_levels": levels, "clean_lr": 1e-3, "imgsz": (32, 48)}
    api.train(backbone, selection(backbone.source), street_data, out, **options)
    bundle, pixels = load_bundle(out), torch.rand(1, 3, 32, 48) * 255
    assert bundle.record.clean is not None
    assert bundle.record.clean.cosine >= bundle.record.clean.before
    with torch.no_grad():
        expected, folded = bundle.reference()(pixels), bundle.deployed()(pixels)
    assert (folded - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-5


def test_labels_are_not_read(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(street_data, tmp_path / "data")
    for path in other.glob("*/labels/*.png"):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert label is not None
        cv2.imwrite(str(path), np.where(label == 255, label, 10 - label))
    for data, out in ((street_data, "right"), (other, "wrong")):
        api.train(str(backbone_folder), selection(str(backbone_folder)), data, tmp_path / out, **BRIEF)
    weights = [(tmp_path / out / "backbone.safetensors").read_bytes() for out in ("right", "wrong")]
    assert weights[0] == weights[1]


def test_an_interrupted_run_goes_on_to_the_same_bytes(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    def run(out: str, progress: Callable[[str, float], None] = lambda _what, _share: None) -> Path:
        chosen = selection(str(backbone_folder))
        api.train(str(backbone_folder), chosen, street_data, tmp_path / out, **BRIEF, progress=progress)
        return tmp_path / out

    whole, steps = run("whole"), 0

    def interrupt(what: str, _share: float) -> None:
        nonlocal steps
        steps += what.startswith("train")
        if steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut", interrupt)
    assert not (tmp_path / "cut").exists()
    resumed: list[str] = []
    cut = run("cut", lambda what, _share: resumed.append(what))
    assert sum(what.startswith("train") for what in resumed) == 4 - 2 + 1, "two clean steps left, one of the head"
    for name in ("backbone.safetensors", "head.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert (tmp_path / "cut.training/clean/curve.csv").read_text().startswith("samples,loss,val_cosine")


def test_what_does_not_go_together_is_refused(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    for options, said in [
        (BRIEF | {"finetune": True}, "got clean features and fine-tuning"),
        (BRIEF | {"noise_draws": 2}, "got clean features and 2 draws of the noise"),
        (BRIEF | {"clean_levels": "all"}, "got clean levels 'all', expected one of selected, sampled"),
        (BRIEF | {"clean": False}, "got clean_samples=32 without clean"),
    ]:
        with pytest.raises(InputError, match=said):
            api.train(str(backbone_folder), selection(str(backbone_folder)), street_data, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_clean_backbone_is_no_backbone_of_noisy_images(cleaned: LoadedBundle, backbone_folder: Path) -> None:
    with pytest.raises(InputError, match=rf"clean backbone.*give the one that it was made from, {backbone_folder}"):
        load_backbone(str(cleaned.folder))


def test_noise_beside_a_clean_backbone_is_no_record(cleaned: LoadedBundle) -> None:
    record = json.loads((cleaned.folder / "bundle.json").read_text())
    with pytest.raises(RecordError, match="got noise in a bundle of a clean backbone"):
        Bundle.parse(json.dumps({**record, "noise": NOISE.model_dump()}))
    older = {name: value for name, value in record.items() if name != "clean"}
    assert Bundle.parse(json.dumps({**older, "schema": "bundle/1.4"})).clean is None


def test_an_adapter_is_the_identity_at_first() -> None:
    x = torch.randn(2, 5, 24)
    assert torch.equal(Adapter(24)(x, torch.tensor([[1.0, 0.0], [0.3, 0.9]])), x)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 64), levels=st.integers(1, 200))
def test_levels_come_from_all_parts_of_the_schedule(seed: int, count: int, levels: int) -> None:
    found = _stratified(np.random.default_rng(seed), count, levels)
    assert len(found) == count
    assert found.min() >= 0
    assert found.max() < levels
    if levels % STRATA == 0:
        assert len(set((found * STRATA // levels).tolist())) == min(count, STRATA)


def test_the_command_passes_it_on(
    backbone_folder: Path, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    selection(str(backbone_folder)).save(tmp_path / "selection.json")
    given_options = {"--backbone": backbone_folder, "--selection": tmp_path / "selection.json", "--data": street_data}
    rest = ["--imgsz", "48x64", "--head", "linear", "--samples", "8", "--out", str(tmp_path / "out")]
    options = [*(str(part) for pair in given_options.items() for part in pair), *rest]
    clean = ["--clean", "--clean-levels", "sampled", "--clean-samples", "8", "--clean-lr", "1e-4"]
    assert command(train_command, monkeypatch, *options, *clean) == 0, capsys.readouterr().err
    found = load_bundle(tmp_path / "out").record.clean
    assert found is not None
    assert (found.levels, found.samples) == ("sampled", 8)
    assert command(train_command, monkeypatch, *options, "--clean-samples", "8") == 2
    assert "--clean-samples" in capsys.readouterr().err
    assert command(train_command, monkeypatch, *options, "--clean", "--finetune") in (1, 2)
    assert "--finetune" in capsys.readouterr().err
