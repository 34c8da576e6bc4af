"""LightningDiT and JiT from the authors' files: compared with the formulas of their papers, and folded exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import PIXELS, Affine
from aselect_edge.backbones.jit import JiT
from aselect_edge.backbones.lightningdit import LightningDiT
from aselect_edge.backbones.rotary import RotaryDiT
from aselect_edge.backbones.rotary_config import RotaryConfig
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Noise, Tap
from tests.edge.rotary_reference import BASE, CLASSES, KINDS, PATCH, checkpoint, formula, save, statistics

SIZE = (BASE * PATCH, BASE * PATCH)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=6,
    ).save_pretrained(folder)
    return str(folder)


def load(folder: Path, vae: str, name: str, content: Any = None, **options: Any) -> LoadedBackbone:
    kind = KINDS[name]
    return load_backbone(save(folder, kind, content=content), vae=None if kind.bottleneck else vae, **options)


@torch.no_grad()
@pytest.mark.parametrize("size", [SIZE, (6, 10)], ids=["square", "camera"])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_papers_formula(tmp_path: Path, vae: str, name: str, size: tuple[int, int]) -> None:
    kind = KINDS[name]
    loaded = load(tmp_path, vae, name)
    assert loaded.model.family == name.split("-")[0]
    x, t, y = torch.randn(2, kind.channels, *size), torch.tensor([0.3, 0.95]), torch.tensor([2, CLASSES])
    expected = formula(kind, checkpoint(kind), x, t, y)
    features = loaded.model.features(x, t, {"label": y})
    assert {str(tap) for tap in features} == set(expected)
    for tap, value in features.items():
        error = (value - expected[str(tap)]).abs().max() / expected[str(tap)].abs().max()
        assert error < 2e-5, (tap, error)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_no_part_of_the_formula_is_idle(name: str) -> None:
    """If one were, the test above could not tell a model without it: each tensor of a block changes what comes out."""
    kind = KINDS[name]
    state, x, t, y = checkpoint(kind), torch.randn(1, kind.channels, 6, 10), torch.tensor([0.5]), torch.tensor([1])
    last = f"{kind.layers - 1}.mlp"
    expected = formula(kind, state, x, t, y)[last]
    computed = ("final_layer", "feat_rope", "pos_embed")
    for tensor in [n for n in state if not n.startswith(computed) and ("blocks" not in n or "blocks.0." in n)]:
        changed = formula(kind, state | {tensor: state[tensor] + 0.2 * torch.randn_like(state[tensor])}, x, t, y)
        assert (changed[last] - expected).abs().max() > 1e-4, tensor


@pytest.mark.parametrize("prefix", ["", "net."])
def test_the_average_is_what_is_read(tmp_path: Path, vae: str, prefix: str) -> None:
    state = checkpoint(KINDS["jit"])
    named = {f"{prefix}{name}": value for name, value in state.items()}
    zeros = {name: torch.zeros_like(value) for name, value in named.items()}
    content = {"model": zeros, "model_ema1": named, "model_ema2": zeros, "epoch": 3}
    model = load(tmp_path, vae, "jit", content).model
    torch.testing.assert_close(model.state_dict()["widen.weight"], state["x_embedder.proj2.weight"])
    torch.testing.assert_close(model.state_dict()["blocks.7.key.bias"], state["blocks.7.attn.qkv.bias"].chunk(3)[1])


@pytest.mark.parametrize(
    ("pixels", "t", "alpha", "sigma"),
    [(256, 0, 1.0, 0.0), (256, 250, 0.75, 0.25), (512, 250, 0.75, 0.5), (512, 1000, 0.0, 2.0)],
)
def test_jit_is_fed_its_own_time_and_noise_that_grows_with_the_image(
    pixels: int, t: int, alpha: float, sigma: float
) -> None:
    model = build(JiT, {**tiny(JiT), "sample_size": pixels, "patch_size": 32})
    (noise,) = model.default_schedule().levels([t])
    assert (noise.alpha, noise.sigma, noise.model_timestep) == pytest.approx((alpha, sigma, alpha))
    (again,) = JiT.schedule(model.default_schedule().config).levels([t])
    assert again == noise
    assert Noise.model_validate_json(noise.model_dump_json()) == noise


def test_lightningdit_is_fed_the_time_of_a_straight_path(tmp_path: Path, vae: str) -> None:
    (noise,) = load(tmp_path, vae, "lightningdit").schedule.levels([300])
    assert (noise.alpha, noise.sigma, noise.model_timestep) == pytest.approx((0.7, 0.3, 0.7))


@torch.no_grad()
def test_latents_are_normalised_channel_by_channel_and_by_nothing_else(tmp_path: Path, vae: str) -> None:
    loaded = load(tmp_path, vae, "lightningdit")
    pixels = torch.rand(1, 3, 16, 24) * 255
    latents = AutoencoderKL.from_pretrained(vae).encode(pixels.flip(1) / 127.5 - 1).latent_dist.mean
    mean, std = (part[:, None, None] for part in statistics(6))
    torch.testing.assert_close(loaded.x0(pixels), (latents - mean) / std, rtol=1e-4, atol=1e-4)


def test_latents_without_their_statistics_are_refused(tmp_path: Path, vae: str) -> None:
    path = save(tmp_path, KINDS["lightningdit"])
    for content, said in [
        ({"mean": torch.zeros(6)}, "got no mean and std"),
        ({"mean": torch.zeros(5), "std": torch.ones(6)}, "got 5 means and 6 stds, expected 6"),
        ({"mean": torch.zeros(6), "std": torch.zeros(6)}, "the stds positive"),
        (None, r"without latents_stats\.pt in its folder"),
    ]:
        (tmp_path / "latents_stats.pt").unlink()
        if content is not None:
            torch.save(content, tmp_path / "latents_stats.pt")
        with pytest.raises(InputError, match=said):
            load_backbone(path, vae=vae)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "lightningdit",
            {"blocks.1.attn.q_norm.weight": torch.ones(8)},
            r"tensors that are not understood: blocks\.1\.attn\.q_norm",
        ),
        (
            "jit",
            {"degradation_embedder.weight": torch.ones(8)},
            r"tensors that are not understood: degradation_embedder\.weight",
        ),
        ("jit", {"blocks.2.cross.weight": torch.ones(8)}, r"tensors that are not understood: blocks\.2\.cross\.weight"),
        ("lightningdit", {"feat_rope.freqs_cos": None}, r"with 'feat_rope\.freqs_cos'"),
        ("jit", {"pos_embed": None}, "with 'pos_embed'"),
        ("jit", {"pos_embed": torch.zeros(1, 16, 16)}, "got a pos_embed of other values"),
        ("lightningdit", {"feat_rope.freqs_sin": torch.zeros(16, 8)}, r"got a feat_rope\.freqs_sin of other values"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, vae: str, name: str, change: dict[str, Tensor | None], said: str
) -> None:
    state: dict[str, Tensor | None] = {**checkpoint(KINDS[name]), **change}
    with pytest.raises(InputError, match=said):
        load(tmp_path, vae, name, {key: value for key, value in state.items() if value is not None})


def test_options_that_contradict_the_file_are_refused(tmp_path: Path, vae: str) -> None:
    with pytest.raises(InputError, match="got the family dit for a file of jit"):
        load(tmp_path, vae, "jit", family="dit")
    with pytest.raises(InputError, match="got 3 heads, expected 2 as in the file"):
        load(tmp_path, vae, "jit", heads=3)
    state = {n: v for n, v in checkpoint(KINDS["jit"]).items() if not n.startswith("blocks.11.")}
    with pytest.raises(InputError, match="got context tokens in a JiT of 11 blocks, expected 12, 24, 32"):
        load(tmp_path, vae, "jit", state)
    assert load(tmp_path, vae, "jit", family="jit", heads=2).model.depth == 12


@pytest.mark.parametrize(
    ("kind", "config", "millions"),
    [
        (JiT, {"num_attention_heads": 12, "attention_head_dim": 64, "num_layers": 12, "bottleneck": 128}, 131),
        (JiT, {"num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 24, "bottleneck": 128}, 459),
        (JiT, {"num_attention_heads": 16, "attention_head_dim": 80, "num_layers": 32, "bottleneck": 256}, 953),
        (LightningDiT, {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28}, 675),
    ],
)
def test_the_published_models_are_as_large_as_their_papers_say(
    kind: type[RotaryDiT], config: dict[str, Any], millions: int
) -> None:
    """JiT-B/16, L/16 and H/16, and LightningDiT-XL/1; on meta, so that nothing is allocated."""
    jit, width = kind is JiT, config["num_attention_heads"] * config["attention_head_dim"]
    channels, patch = (3, 16) if jit else (32, 1)
    more = {"in_channels": channels, "patch_size": patch, "sample_size": 16 * patch, "num_embeds_ada_norm": 1000}
    more |= {"mlp_width": int(4 * width * 2 / 3), "qk_norm": jit, "context_tokens": 32 if jit else 0}
    model = build(kind, config | more)
    final = 2 * width * (width + 1) + (width + 1) * patch**2 * channels + width
    count = sum(parameter.numel() for parameter in model.parameters()) + final
    assert round(count / 1e6) == pytest.approx(millions, abs=2)


def tiny(kind: type[RotaryDiT], **changes: Any) -> dict[str, Any]:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 3,
        "num_layers": 3,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": CLASSES,
        "mlp_width": 20,
    }
    if kind is JiT:
        config |= {"qk_norm": True, "bottleneck": 6, "context_tokens": 5, "context_start": 1}
    return config | changes


def random_model(kind: type[RotaryDiT], **changes: Any) -> RotaryDiT:
    torch.manual_seed(0)
    model = kind(RotaryConfig.from_json(kind.family, tiny(kind, **changes)))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return model.eval().requires_grad_(False)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([JiT, LightningDiT]),
    heads=st.integers(1, 3),
    head=st.sampled_from([4, 8, 12]),
    layers=st.integers(1, 4),
    patch=st.sampled_from([1, 2, 4]),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    parts=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["rms", "layer"]),
            "gated": st.booleans(),
            "qk_norm": st.booleans(),
            "shift": st.booleans(),
        }
    ),
    start=st.integers(0, 4),
    affine=st.sampled_from([PIXELS, Affine(0.7, -0.2), Affine((0.5, 2.0, 1.0), (0.1, -1.0, 0.0))]),
    label=st.none() | st.integers(0, CLASSES - 1),
    sigma=st.floats(0, 2),
    draws=st.integers(1, 2),
    data=st.data(),
)
def test_folded_equals_unfolded(
    kind: type[RotaryDiT],
    heads: int,
    head: int,
    layers: int,
    patch: int,
    grid: tuple[int, int],
    parts: dict[str, Any],
    start: int,
    affine: Affine,
    label: int | None,
    sigma: float,
    draws: int,
    data: st.DataObject,
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    config: dict[str, Any] = {
        "num_attention_heads": heads,
        "attention_head_dim": head,
        "num_layers": layers,
        "patch_size": patch,
    }
    config |= {"sample_size": 4 * patch, **parts, **({"context_start": start} if kind is JiT else {})}
    model = random_model(kind, **config)
    noise = Noise(alpha=max(0.0, 1 - sigma / 2), sigma=sigma, model_timestep=max(0.0, 1 - sigma / 2))
    size, condition = (grid[0] * patch, grid[1] * patch), model.condition(label)
    values = torch.rand(2, 3, *size) * 255 if affine is PIXELS else torch.randn(2, 3, *size)
    gain, offset = (torch.tensor(part).reshape(-1, 1, 1) for part in (affine.gain, affine.offset))
    x0 = (values.flip(1) if affine.reverse else values) * gain + offset
    expected = {tap: torch.zeros(()) for tap in taps}
    with torch.no_grad():
        for eps in fixed_noise((3, *size), 1, draws):
            x = noise.alpha * x0 + noise.sigma * eps
            seen = model.features(
                x, torch.full((2,), noise.model_timestep), {"label": condition["label"].expand(2)}, taps
            )
            expected = {tap: total + seen[tap] / draws for tap, total in expected.items()}
        folded = fold(
            model,
            FoldSpec.of(model, noise, taps, size, noise_seed=1, draws=draws, condition=condition, affine=affine),
        )
        got = folded(values)
    assert len(folded.blocks) == 1 + max(tap.block for tap in taps)
    for tap_, value in zip(taps, got, strict=True):
        assert value.shape == (2, *grid, model.width)
        error = (value.flatten(1, 2) - expected[tap_]).abs().max() / expected[tap_].abs().max()
        assert error < 1e-5, (tap_, error)


D, H, L, T = 16, 20, 5, 16
LAST: dict[Component, dict[str, tuple[int, ...]]] = {
    "hidden": {},
    "adaln": {"norm1.weight": (D,), "scale1": (D,), "shift1": (D,)},
    "query": {"norm1.weight": (D,), "project.weight": (D, D), "project.bias": (D,)},
    "attn_gated": {
        "norm1.weight": (D,),
        "project.weight": (3 * D, D),
        "project.bias": (3 * D,),
        "query.cos": (T, 1, 8),
        "query.sin": (T, 1, 8),
        "query.norm.weight": (8,),
        "key.cos": (T + L, 1, 8),
        "key.sin": (T + L, 1, 8),
        "key.norm.weight": (8,),
        "out.weight": (D, D),
        "out.bias": (D,),
    },
}
LAST["mlp"] = LAST["attn_gated"] | {
    "norm2.weight": (D,),
    "mlp_in.weight": (2 * H, D),
    "mlp_in.bias": (2 * H,),
    "mlp_out.weight": (D, H),
    "mlp_out.bias": (D,),
}
"""What is left of the tap's own block, the second after the context entered: the last queries are the image's alone."""


@pytest.mark.parametrize("component", LAST)
def test_nothing_is_left_after_a_tap(component: Component) -> None:
    model = random_model(JiT)
    noise = Noise(alpha=1, sigma=0, model_timestep=1)
    folded = fold(model, FoldSpec.of(model, noise, [Tap(block=2, component=component)], SIZE))
    assert {name: tuple(v.shape) for name, v in folded.blocks[2].state_dict().items()} == LAST[component]
    assert {n for n in folded.blocks[1].state_dict() if "context" in n} == {"context"}
    assert not [
        n for n in folded.state_dict() if "adaln" in n or "conditioning" in n or n.startswith("blocks.0.context")
    ]
    entering = fold(model, FoldSpec.of(model, noise, [Tap(block=1, component="query")], SIZE))
    assert not [n for n in entering.state_dict() if "context" in n], "a query of the image needs no context"


@torch.no_grad()
@pytest.mark.parametrize("name", ["jit", "lightningdit-layernorm"])
def test_a_lean_model_answers_as_a_whole_one(tmp_path: Path, vae: str, name: str) -> None:
    kind = KINDS[name]
    whole, lean = load(tmp_path, vae, name), load(tmp_path, vae, name, depth=3, lean=True)
    assert lean.model.depth == 3
    assert all(parameter.is_meta for parameter in lean.model.get_submodule("blocks").parameters())
    taps = [Tap.parse("1.key"), Tap.parse("2.mlp")]
    x, t = torch.randn(1, kind.channels, *SIZE), torch.tensor([0.4])
    expected = whole.model.features(x, t, whole.condition, taps)
    got = lean.model.features(x, t, lean.condition, taps)
    for tap in taps:
        torch.testing.assert_close(got[tap], expected[tap])


def test_a_config_of_something_else_is_refused() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"rope_theta": 5.0}, "got rope_theta, expected only"),
        ({"attention_head_dim": 6}, "got attention_head_dim = 6"),
        ({"norm": "group"}, "got norm = 'group'"),
        ({"latents_std": [0.0]}, "latents_std"),
    ]
    for change, said in changes:
        with pytest.raises(InputError, match=said):
            LightningDiT.from_json(tiny(LightningDiT, **change))
    with pytest.raises(InputError, match="noise_scale"):
        JiT.schedule({"noise_scale": -1})


def test_a_model_is_rebuilt_from_its_description(tmp_path: Path, vae: str) -> None:
    model: Any = load(tmp_path, vae, "lightningdit").model
    again: Any = build(LightningDiT, model.to_json())
    assert again.config == model.config
    assert again.affine == model.affine
