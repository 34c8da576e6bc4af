"""Checkpoints of facebookresearch/DiT and SiT, compared with those projects' formula, written out here."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from aselect_edge import api
from aselect_edge.backbones import DiT, LoadedBackbone, load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.facebook import HEADS
from aselect_edge.backbones.loading import backbone_of
from aselect_edge.backbones.sit import SiT
from aselect_edge.bundle import load_bundle
from aselect_edge.commands.select import select
from aselect_edge.commands.train import train
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.records import Bundle, Noise, Selection, Tap

WIDTH, NUM_HEADS, LAYERS, PATCH, SIDE, CHANNELS, CLASSES = 32, 4, 3, 2, 8, 4, 5
State = dict[str, Tensor]

pytestmark = pytest.mark.usefixtures("undrawn")


def sincos(width: int, side: int) -> Tensor:
    """(side², width): the first half of the channels is the column's, sines before cosines."""
    omega = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    rows, columns = np.divmod(np.arange(side * side), side)
    parts = [f(np.outer(axis, omega)) for axis in (columns, rows) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, 1)).float()


def checkpoint(learn_sigma: bool = True, rows: int = CLASSES + 1) -> State:
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.linear": (PATCH * PATCH * CHANNELS * (1 + learn_sigma), WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    torch.manual_seed(0)
    state = {"pos_embed": sincos(WIDTH, SIDE // PATCH)[None]}
    state["y_embedder.embedding_table.weight"] = 0.2 * torch.randn(rows, WIDTH)
    for name, shape in shapes.items():
        state |= {f"{name}.weight": 0.2 * torch.randn(shape), f"{name}.bias": 0.2 * torch.randn(shape[0])}
    return state


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def formula(state: State, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, State]:
    """What facebookresearch/DiT computes: the answer, and the taps by name."""
    seen: State = {}
    wave = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    c = linear(state, "t_embedder.mlp.0", torch.cat([wave.cos(), wave.sin()], 1))
    c = F.silu(linear(state, "t_embedder.mlp.2", F.silu(c)) + state["y_embedder.embedding_table.weight"][y])
    h = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=PATCH)
    h = h.flatten(2).mT + state["pos_embed"]
    for i in range(LAYERS):
        s1, f1, g1, s2, f2, g2 = linear(state, f"blocks.{i}.adaLN_modulation.1", c)[:, None].chunk(6, 2)
        seen[f"{i}.hidden"] = h
        a = F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + f1) + s1
        seen[f"{i}.adaln"] = a
        qkv = linear(state, f"blocks.{i}.attn.qkv", a)
        for name, part in zip(("query", "key", "value"), qkv.split(WIDTH, 2), strict=True):
            seen[f"{i}.{name}"] = part
        q, k, v = qkv.unflatten(2, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        a = ((q @ k.mT) / math.sqrt(WIDTH / NUM_HEADS)).softmax(-1) @ v
        a = linear(state, f"blocks.{i}.attn.proj", a.transpose(1, 2).flatten(2))
        seen[f"{i}.attn"], seen[f"{i}.attn_gated"] = a, g1 * a
        h = h + g1 * a
        a = F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + f2) + s2
        a = F.gelu(linear(state, f"blocks.{i}.mlp.fc1", a), approximate="tanh")
        a = linear(state, f"blocks.{i}.mlp.fc2", a)
        seen[f"{i}.mlp"] = a
        h = h + g2 * a
    s, f = linear(state, "final_layer.adaLN_modulation.1", c)[:, None].chunk(2, 2)
    h = linear(state, "final_layer.linear", F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + f) + s)
    n, side = len(x), SIDE // PATCH
    h = h.reshape(n, side, side, PATCH, PATCH, -1).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(n, -1, SIDE, SIDE), seen


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder)
    return str(folder)


def saved(folder: Path, content: Any, name: str = "DiT-T-2-64x64.pt") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def load(folder: Path, vae: str, content: Any, name: str = "DiT-T-2-64x64.pt", **options: Any) -> LoadedBackbone:
    return load_backbone(saved(folder, content, name), vae=vae, heads=NUM_HEADS, **options)


@torch.no_grad()
@pytest.mark.parametrize("wrapped", [None, "ema", "model"])
def test_dit_is_facebooks_formula(tmp_path: Path, vae: str, wrapped: str | None) -> None:
    state = checkpoint()
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    content: Any = state if wrapped is None else {wrapped: state, "opt": {"state": {}}, "args": Namespace(a=1)}
    if wrapped == "ema":
        content["model"] = other  # the average is what is sampled with
    loaded = load(tmp_path, vae, content)
    assert isinstance(loaded.model, DiT)
    x, t, y = torch.randn(2, CHANNELS, SIDE, SIDE), torch.tensor([40.0, 870.0]), torch.tensor([2, CLASSES])
    expected, seen = formula(state, x, t, y)
    torch.testing.assert_close(loaded.model(x, t, y), expected, rtol=1e-5, atol=1e-5)
    features = loaded.model.features(x, t, {"label": y})
    assert {str(tap) for tap in features} == set(seen)
    for tap, value in features.items():
        torch.testing.assert_close(value, seen[str(tap)], rtol=1e-5, atol=1e-5)


def test_torchs_old_format_loads_too(tmp_path: Path, vae: str) -> None:
    state = checkpoint()
    torch.save(state, tmp_path / "DiT.pt", _use_new_zipfile_serialization=False)
    model = load_backbone(str(tmp_path / "DiT.pt"), vae=vae, heads=NUM_HEADS).model
    torch.testing.assert_close(model.state_dict()["patch_embed.weight"], state["x_embedder.proj.weight"])


@torch.no_grad()
def test_sit_has_the_same_layout_and_the_time_of_a_straight_path(tmp_path: Path, vae: str) -> None:
    state = checkpoint()
    loaded = load(tmp_path, vae, state, "SiT-T-2.pt")
    assert isinstance(loaded.model, SiT)
    noise = loaded.schedule.levels([50])[0]
    assert (noise.alpha, noise.sigma, noise.model_timestep) == pytest.approx((0.95, 0.05, 0.95))
    x, t, y = torch.randn(1, CHANNELS, SIDE, SIDE), torch.tensor([noise.model_timestep]), torch.tensor([CLASSES])
    expected, seen = formula(state, x, t, y)
    torch.testing.assert_close(loaded.model(x, t, y), expected[:, :CHANNELS], rtol=1e-5, atol=1e-5)
    tap = Tap.parse("2.mlp")
    got = loaded.model.features(x, t, loaded.condition, [tap])[tap]
    torch.testing.assert_close(got, seen["2.mlp"], rtol=1e-5, atol=1e-5)


def test_the_two_sinusoids_are_not_the_same(tmp_path: Path, vae: str) -> None:
    """If they were, the tests above could not tell facebook's formula from diffusers'."""
    state = checkpoint()
    loaded = load(tmp_path, vae, state)
    assert isinstance(loaded.model, DiT)
    config = {**loaded.model.to_json(), "frequency_shift": 1}
    other = DiT.from_json(config)
    other.load_state_dict(loaded.model.state_dict())
    x, t = torch.randn(1, CHANNELS, SIDE, SIDE), torch.tensor([400.0])
    with torch.no_grad():
        ours, theirs = (m.features(x, t, loaded.condition)[Tap.parse("0.adaln")] for m in (loaded.model, other))
    assert (ours - theirs).abs().max() > 0.01


def test_the_family_is_in_the_name_or_given(tmp_path: Path, vae: str) -> None:
    state = checkpoint()
    with pytest.raises(InputError, match="give the family, dit or sit"):
        load(tmp_path, vae, state, "checkpoint-0400000.pt")
    assert load(tmp_path, vae, state, "checkpoint-0400000.pt", family="sit").model.family == "sit"
    assert load(tmp_path, vae, state, "my_SiT-XL.pt").model.family == "sit"
    assert load(tmp_path, vae, state, "dit_b.pth").model.family == "dit"
    with pytest.raises(InputError, match=r"got sit time sigma with .*dit_b\.pth, a dit, where it has no effect"):
        load(tmp_path, vae, state, "dit_b.pth", sit_time="sigma")
    with pytest.raises(InputError, match="got the family 'unet', expected one of dit, sit"):
        load(tmp_path, vae, state, family="unet")
    with pytest.raises(InputError, match="got the family sd3 for a single file, expected dit or sit"):
        load(tmp_path, vae, state, family="sd3")


def test_latents_without_an_autoencoder_are_refused(tmp_path: Path, vae: str) -> None:
    path = saved(tmp_path, checkpoint())
    with pytest.raises(InputError, match="give its folder or hub id"):
        load_backbone(path, heads=NUM_HEADS)
    with pytest.raises(InputError, match="got the width 32, expected 1152, 1024, 768, 384 or the number of heads"):
        load_backbone(path, vae=vae)
    with pytest.raises(InputError, match="32 and 5 heads"):
        load_backbone(path, vae=vae, heads=5)


def test_an_autoencoder_of_other_channels_is_refused(backbone_folder: Path, vae: str) -> None:
    with pytest.raises(InputError, match="got an autoencoder of 4 channels, expected 3"):
        load_backbone(str(backbone_folder), vae=vae)


def test_classes_without_a_null_class_need_a_label(tmp_path: Path, vae: str) -> None:
    state = checkpoint(rows=1000)
    with pytest.raises(InputError, match=r"without a null class, .* choose one, 0 to 999"):
        load(tmp_path, vae, state)
    loaded = load(tmp_path, vae, state, label=7)
    assert loaded.condition["label"].tolist() == [7]
    assert loaded.label == 7
    with pytest.raises(InputError, match="got the label 1000, expected 0 to 999"):
        load(tmp_path, vae, state, label=1000)


@torch.no_grad()
@pytest.mark.parametrize("label", [None, 3])
def test_the_fold_of_a_checkpoint_is_exact_on_any_grid(tmp_path: Path, vae: str, label: int | None) -> None:
    loaded = load(tmp_path, vae, checkpoint(), label=label, depth=2)
    size, noise, taps = (6, 12), Noise(alpha=0.9, sigma=0.436, model_timestep=190), [Tap.parse("1.query")]
    values = torch.randn(2, CHANNELS, *size)
    x = noise.alpha * (0.18215 * values) + noise.sigma * fixed_noise((CHANNELS, *size), 4)
    y = torch.full((2,), CLASSES if label is None else label)
    expected = loaded.model.features(x, torch.full((2,), 190.0), {"label": y}, taps)[taps[0]]
    got = fold(
        loaded.model,
        FoldSpec.of(
            loaded.model, noise, taps, size, noise_seed=4, condition=loaded.condition, affine=loaded.encoder.affine
        ),
    )(values)[0]
    assert (got.flatten(1, 2) - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize(("latent", "tokens"), [(32, 256), (64, 1024)])
def test_the_published_shapes_are_constructed(latent: int, tokens: int) -> None:
    """DiT-XL/2 at 256 and 512 px, without allocating it."""
    config = {"sample_size": latent, "frequency_shift": 0, "norm_eps": 1e-6, "out_channels": 8, "tied": True}
    model = build(DiT, config)
    assert isinstance(model, DiT)
    assert all(parameter.is_meta for parameter in model.parameters())
    # facebook's own count at 256 px, which includes the fixed position table of 256 tokens.
    assert sum(parameter.numel() for parameter in model.parameters()) + 256 * 1152 == 675_129_632
    assert (model.width, model.depth, model.config.num_attention_heads) == (1152, 28, HEADS[1152])
    rows, columns = model.grid(latent, latent)
    assert rows * columns == tokens
    assert model.positions((rows, columns)).shape == (tokens, 1152)
    torch.testing.assert_close(model.positions((rows, columns)), sincos(1152, latent // 2))
    assert build(DiT, config, depth=10).depth == 10


@pytest.mark.parametrize("damage", ["x_embedder.proj.weight", "pos_embed", "blocks.1.mlp.fc1.bias"])
def test_other_layouts_are_refused(tmp_path: Path, vae: str, damage: str) -> None:
    state = checkpoint()
    del state[damage]
    with pytest.raises(InputError, match=f"got (no )?tensor .*{damage}.*expected"):
        load(tmp_path, vae, state)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02junk"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, vae: str, content: bytes) -> None:
    (tmp_path / "DiT.pt").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"DiT\.pt: unreadable .* expected a torch checkpoint"):
        load_backbone(str(tmp_path / "DiT.pt"), vae=vae)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, vae: str) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "owned"), "w"))

    with pytest.raises(IntegrityError, match=r"unreadable \(it holds a \w+\.open, which is not a tensor"):
        load(tmp_path, vae, {"ema": Hostile()})
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_goes_from_selection_to_a_bundle(
    tmp_path: Path, vae: str, street_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, record, bundle = saved(tmp_path, checkpoint(), "SiT-T-2.pt"), tmp_path / "selection.json", tmp_path / "bundle"
    options = ["--data", street_data, "--imgsz", "32x32", "--vae", vae, "--num-heads", NUM_HEADS]

    def run(command: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["aselect", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command()
        assert not caught.value.code, capsys.readouterr().err

    run(
        select,
        path,
        *options,
        "--strategy",
        "hfr",
        "--timesteps",
        "50,500",
        "--label",
        2,
        "--images",
        2,
        "--out",
        record,
    )
    chosen = Selection.load(record)
    assert chosen.label == 2
    assert {score.noise.model_timestep for score in chosen.scores} == {0.95, 0.5}
    run(train, "--backbone", path, "--selection", record, *options, "--samples", 8, "--out", bundle)
    loaded = load_bundle(bundle)
    source = loaded.record.backbone
    assert (source.family, source.source, source.vae, source.label) == ("sit", path, str(Path(vae).resolve()), 2)
    backbone = loaded.backbone()
    assert backbone.condition["label"].tolist() == [2]
    assert backbone.schedule.levels([50])[0].model_timestep == pytest.approx(0.95)
    pixels = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        reference = loaded.reference()(pixels)
        assert (loaded.deployed()(pixels) - reference).abs().max() / reference.abs().max() < 1e-4


def test_a_bundle_keeps_what_was_said_of_the_time(tmp_path: Path, vae: str, street_data: Path) -> None:
    """Also a bundle without weights of its own, whose file does not tell and is read again."""
    state = {**checkpoint(), "projectors.0.0.weight": torch.ones(2, 2)}  # a learned sigma too: either project's
    path = saved(tmp_path, state, "SiT-T-2.pt")
    said: dict[str, Any] = {"sit_time": "sigma", "sit_path": "cosine", "vae": vae, "num_heads": NUM_HEADS}
    with pytest.raises(InputError, match="evidence of the direction of time"):
        load_backbone(path, vae=vae, heads=NUM_HEADS)
    chosen = api.select(path, street_data, strategy="fixed", timestep=300, tap="1.mlp", imgsz="32x32", **said)
    assert (chosen.noise.alpha, chosen.noise.sigma) == pytest.approx(
        (math.cos(0.15 * math.pi), math.sin(0.15 * math.pi))
    )
    assert chosen.noise.model_timestep == pytest.approx(0.3)
    api.train(path, chosen, street_data, tmp_path / "bundle", imgsz="32x32", samples=8, **said)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.record.backbone.schedule == {"time": "sigma", "path": "cosine"}
    for record in (bundle.record, _without_weights(bundle.record)):
        again = backbone_of(tmp_path / "bundle", record)
        assert again.schedule.levels([300])[0] == chosen.noise


def _without_weights(record: Bundle) -> Bundle:
    source = record.backbone.model_copy(update={"file": None})
    return record.model_copy(update={"backbone": source})


@pytest.mark.parametrize("timesteps", [[-1], [1001], [float("nan")]])
def test_a_noise_level_that_is_none_is_refused(timesteps: list[float]) -> None:
    with pytest.raises(InputError, match="expected 1000·sigma, 0 to 1000"):
        SiT.schedule(None).levels(timesteps)


def test_candidates_of_a_straight_path_span_it() -> None:
    schedule = SiT.schedule(None)
    levels = schedule.levels(schedule.candidates())
    assert len(levels) == 21
    assert levels[0].sigma == 0
    assert levels[-1].sigma == pytest.approx(1, abs=2e-3)
    assert all(level.alpha + level.sigma == pytest.approx(1) for level in levels)
