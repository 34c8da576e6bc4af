"""PixArt against plain hooks on the real diffusers class, and its fold against PixArt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import Affine
from aselect_edge.backbones.pixart import PixArt
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_edge.fold.pixart import FoldedPixArt
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Noise, Tap

SMALL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 3,
    "cross_attention_dim": 24,
    "caption_channels": 20,
    "sample_size": 16,
    "patch_size": 2,
}
STYLES: dict[str, dict[str, Any]] = {
    "alpha-512": {"use_additional_conditions": False},
    "alpha-1024": {"use_additional_conditions": True, "interpolation_scale": 2},
    "sigma": {"use_additional_conditions": False, "interpolation_scale": 2, "attention_bias": True},
    "no-caption-projection": {"caption_channels": None, "attention_bias": False},
}


@dataclass(frozen=True)
class Real:
    """A random model of the real class, and where it was saved."""

    model: PixArtTransformer2DModel
    folder: Path
    condition: dict[str, Tensor]


def random_model(**config: Any) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(**{**SMALL, **config}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model


def random_condition(channels: int, valid: int = 1, length: int = 6) -> dict[str, Tensor]:
    prompt = torch.randn((1, length, channels), generator=torch.Generator().manual_seed(1))
    return {"prompt": prompt, "mask": (torch.arange(length) < valid).long()[None]}


@pytest.fixture(scope="module", params=STYLES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    model = random_model(**STYLES[request.param])
    condition = random_condition(model.config.caption_channels or model.config.cross_attention_dim)
    folder = tmp_path_factory.mktemp("pixart")
    model.save_pretrained(folder / "transformer")
    DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02).save_pretrained(folder / "scheduler")
    save_condition(condition, folder / CONDITION)
    return Real(model, folder, condition)


def hooked(real: Real, x: Tensor, timestep: Tensor, condition: dict[str, Tensor]) -> dict[Tap, Tensor]:
    """Every component of every block of the real model, by hooks of this test's own."""
    seen: dict[str, Any] = {}
    hooks = []
    for i, block in enumerate(real.model.transformer_blocks):
        places = {"query": block.attn1.to_q, "key": block.attn1.to_k, "value": block.attn1.to_v}
        places |= {"attn": block.attn1.to_out[0], "mlp": block.ff}
        for name, module in places.items():
            hooks.append(module.register_forward_hook(lambda _m, _a, out, at=f"{i}.{name}": seen.update({at: out})))
        for name, module in {"hidden": block, "adaln": block.attn1.to_k}.items():
            hooks.append(
                module.register_forward_pre_hook(lambda _m, args, at=f"{i}.{name}": seen.update({at: args[0]}))
            )
    count, (height, width) = len(x), (8.0 * x.shape[2], 8.0 * x.shape[3])
    told = {
        "resolution": torch.tensor([[height, width]] * count),
        "aspect_ratio": torch.tensor([[height / width]] * count),
    }
    modulations = []
    hooks.append(real.model.adaln_single.register_forward_hook(lambda _m, _a, out: modulations.append(out[0])))
    with torch.no_grad():
        real.model(
            x,
            encoder_hidden_states=condition["prompt"].repeat(count, 1, 1),
            encoder_attention_mask=condition["mask"].repeat(count, 1),
            timestep=timestep,
            added_cond_kwargs=told if real.model.use_additional_conditions else None,
        )
    for hook in hooks:
        hook.remove()
    for i, block in enumerate(real.model.transformer_blocks):
        gate = (block.scale_shift_table[None] + modulations[0].reshape(count, 6, -1)).chunk(6, dim=1)[2]
        seen[f"{i}.attn_gated"] = (gate * seen[f"{i}.attn"]).detach()
    return {Tap.parse(name): value for name, value in seen.items()}


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("valid", [1, 4])
def test_taps_equal_hooks_on_diffusers(real: Real, size: tuple[int, int], valid: int) -> None:
    loaded = load_backbone(str(real.folder))
    condition = {**loaded.condition, "mask": random_condition(1, valid)["mask"]}
    x, timestep = torch.randn(2, 3, *size), torch.tensor([50, 50])
    expected = hooked(real, x, timestep, condition)
    with torch.no_grad():
        features = loaded.model.features(x, timestep, condition)
    assert features.keys() == expected.keys()
    assert len(features) == 3 * len(COMPONENTS)
    for tap, value in expected.items():
        torch.testing.assert_close(features[tap], value, rtol=1e-5, atol=1e-5)


def test_a_lean_cut_model_gives_the_same_and_keeps_no_block(real: Real) -> None:
    loaded = load_backbone(str(real.folder), lean=True, depth=2)
    assert isinstance(loaded.model, PixArt)
    assert loaded.model.depth == 2
    assert not any("proj_out" in name or "norm_out" in name for name in loaded.model.state_dict())
    x, timestep = torch.randn(1, 3, 8, 8), torch.tensor([400])
    expected = hooked(real, x, timestep, real.condition)
    for tap, value in loaded.model.features(x, timestep, loaded.condition).items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)
    assert all(parameter.is_meta for parameter in loaded.model.model.transformer_blocks.parameters())


def test_no_block_beyond_the_deepest_tap_runs_and_no_hook_stays(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    assert isinstance(model, PixArt)
    model.model.transformer_blocks[2].ff = nn.Bilinear(1, 1, 1)  # fails on one argument
    x, timestep = torch.randn(1, 3, 8, 8), torch.tensor([50])
    model.features(x, timestep, real.condition, [Tap(block=1, component="mlp")])
    with pytest.raises(TypeError):
        model.features(x, timestep, real.condition)
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_reach_the_first_layer(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    assert isinstance(model, PixArt)
    tap = Tap(block=1, component="attn_gated")
    model.features(torch.randn(1, 3, 8, 8), torch.tensor([50]), real.condition, [tap])[tap].square().sum().backward()
    gradient = model.model.pos_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_the_noise_is_that_of_the_folders_solver(real: Real) -> None:
    (level,) = load_backbone(str(real.folder)).schedule.levels([50])
    solver = DPMSolverMultistepScheduler.from_pretrained(real.folder / "scheduler")
    assert level.alpha == pytest.approx(float(solver.alphas_cumprod[50]) ** 0.5, rel=1e-6)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
    assert level.model_timestep == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "ada_norm_zero"}, "norm_type = 'ada_norm_zero', expected 'ada_norm_single'"),
        ({"cross_attention_dim": None}, "cross_attention_dim = None, expected 1 to 65536"),
        ({"attention_head_dim": 10, "use_additional_conditions": True}, "width 20, expected a multiple of 3"),
    ],
)
def test_invalid_values_in_the_config_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(PixArt, {**SMALL, **change})


def test_a_prompt_without_a_valid_token_is_refused(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    with pytest.raises(InputError, match="mask without a valid token"):
        model.features(
            torch.randn(1, 3, 8, 8), torch.tensor([5]), {**real.condition, "mask": torch.zeros(1, 6, dtype=torch.long)}
        )
    assert json.dumps(model.to_json())
    with pytest.raises(InputError, match="multiples of the patch size 2"):
        model.grid(15, 16)


def filled(config: dict[str, Any]) -> PixArt:
    """The family's module with the weights of a random model."""
    model = build(PixArt, config)
    state = random_model(**config).state_dict()
    model.load_state_dict({ours: state[theirs] for ours, theirs in model.keys().items()}, assign=True)
    assert isinstance(model, PixArt)
    return model.eval().requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    layers=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    valid=st.integers(1, 4),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    draws=st.integers(1, 2),
    style=st.sampled_from(list(STYLES)),
    data=st.data(),
)
def test_folded_equals_unfolded(
    heads: int,
    layers: int,
    grid: tuple[int, int],
    valid: int,
    sigma: float,
    seed: int | None,
    draws: int,
    style: str,
    data: st.DataObject,
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    width = 12 * heads
    model = filled(
        {**SMALL, **STYLES[style], "num_layers": layers, "num_attention_heads": heads, "cross_attention_dim": width}
    )
    condition = random_condition(model.model.config.caption_channels or width, valid)
    noise = Noise(alpha=(1 - sigma**2) ** 0.5, sigma=sigma, model_timestep=999 * sigma)
    size, affine = (grid[0] * 2, grid[1] * 2), Affine(0.7, 0.2)
    values, eps = torch.randn(2, 3, *size), fixed_noise((3, *size), seed, draws)
    x = noise.alpha * (values * 0.7 + 0.2)[:, None] + noise.sigma * eps
    with torch.no_grad():
        expected = model.features(x.flatten(0, 1), torch.full((2 * draws,), noise.model_timestep), condition, taps)
        got = fold(
            model,
            FoldSpec.of(model, noise, taps, size, noise_seed=seed, condition=condition, affine=affine, draws=draws),
        )(values)
    for tap_, value in zip(taps, got, strict=True):
        reference = expected[tap_].unflatten(0, (2, draws)).mean(1)
        error = (value.flatten(1, 2) - reference).abs().max() / reference.abs().max()
        assert error < 1e-5, (tap_, error)


def folded_for(tap: str, valid: int = 1) -> FoldedPixArt:
    noise = Noise(alpha=0.8, sigma=0.6, model_timestep=50)
    model = filled(SMALL)
    folded = fold(
        model, FoldSpec.of(model, noise, [Tap.parse(tap)], (8, 8), noise_seed=0, condition=random_condition(20, valid))
    )
    assert isinstance(folded, FoldedPixArt)
    return folded


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_the_empty_prompt_leaves_nothing_but_a_bias() -> None:
    folded = folded_for("1.query")
    assert shapes(folded.blocks[1]) == {"project.weight": (24, 24), "project.bias": (24,)}
    assert shapes(folded.blocks[0]) == {
        "project.weight": (72, 24),
        "project.bias": (72,),
        "out.weight": (24, 24),
        "out.bias": (24,),
        "mlp.widen.weight": (96, 24),
        "mlp.widen.bias": (96,),
        "mlp.narrow.weight": (24, 96),
        "mlp.narrow.bias": (24,),
    }


def test_several_valid_tokens_keep_constant_keys_and_values() -> None:
    before, last = (shapes(block) for block in folded_for("1.attn", valid=3).blocks)
    assert {name: shape for name, shape in before.items() if name.startswith("cross")} == {
        "cross.key": (1, 3, 24),
        "cross.value": (1, 3, 24),
        "cross.query.weight": (24, 24),
        "cross.query.bias": (24,),
        "cross.output.weight": (24, 24),
        "cross.output.bias": (24,),
    }
    assert not any(name.startswith(("cross", "mlp")) for name in last)


@pytest.mark.parametrize(
    ("component", "names"),
    [
        ("hidden", set()),
        ("adaln", {"scale1", "shift1"}),
        ("value", {"project"}),
        ("attn", {"project", "out"}),
        ("attn_gated", {"project", "out"}),
        ("mlp", {"project", "out", "mlp"}),
    ],
)
def test_a_block_keeps_what_its_tap_needs(component: Component, names: set[str]) -> None:
    folded = folded_for(f"1.{component}")
    assert {name.partition(".")[0] for name in folded.blocks[1].state_dict()} == names
    assert len(folded.blocks) == 2


def test_a_lean_fold_is_the_same_and_leaves_no_block_in_memory(real: Real) -> None:
    tap, noise = Tap(block=2, component="attn"), Noise(alpha=0.8, sigma=0.6, model_timestep=100)
    lean, whole = load_backbone(str(real.folder), lean=True), load_backbone(str(real.folder))
    got = fold(
        lean.model, FoldSpec.of(lean.model, noise, [tap], (8, 8), noise_seed=0, condition=lean.condition)
    ).state_dict()
    expected = fold(
        whole.model, FoldSpec.of(whole.model, noise, [tap], (8, 8), noise_seed=0, condition=whole.condition)
    ).state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    assert all(value.is_meta for name, value in lean.model.state_dict().items() if "transformer_blocks" in name)
