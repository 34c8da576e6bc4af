"""PRX and Sana against plain hooks on the real diffusers classes, and their folds against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import Affine
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.backbones.registry import family_class
from aselect_edge.fold import Folded, FoldSpec, fixed_noise, fold
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Noise, Tap
from tests.edge.prompted_reference import (
    CLASSES,
    PRX,
    SANA,
    STYLES,
    filled,
    hooked,
    layers,
    patch,
    random_condition,
    random_model,
)


@dataclass(frozen=True)
class Real:
    """A random model of the real class, and where it was saved."""

    style: str
    model: Any
    folder: Path
    condition: dict[str, Tensor]

    def fed(self, sigma: float, count: int = 1) -> Tensor:
        """What the pipeline feeds at this noise level."""
        return torch.full((count,), sigma if self.style.startswith("prx") else 1000 * sigma)


@pytest.fixture(scope="module", params=STYLES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    family, config = STYLES[request.param]
    model, condition = random_model(family, config), random_condition()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "transformer")
    solver = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    schedulers = {"prx": FlowMatchEulerDiscreteScheduler(shift=3.0), "sana": DPMSolverMultistepScheduler(**solver)}
    schedulers[family].save_pretrained(folder / "scheduler")
    save_condition(condition, folder / CONDITION)
    return Real(request.param, model, folder, condition)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
@pytest.mark.parametrize("valid", [1, 4])
def test_taps_equal_hooks_on_diffusers(real: Real, grid: tuple[int, int], valid: int) -> None:
    loaded = load_backbone(str(real.folder))
    condition = {**loaded.condition, "mask": random_condition(valid)["mask"]}
    x, timestep = torch.randn(2, 3, *(side * patch(real.style) for side in grid)), real.fed(0.3, 2)
    expected = hooked(real.model, x, timestep, condition)
    with torch.no_grad():
        features = loaded.model.features(x, timestep, condition)
    assert features.keys() == expected.keys()
    assert len(features) == layers(real.style) * len(COMPONENTS)
    for tap, value in expected.items():
        torch.testing.assert_close(features[tap], value, rtol=1e-5, atol=1e-5)


def test_the_noise_is_that_of_the_folders_scheduler(real: Real) -> None:
    (level,) = load_backbone(str(real.folder)).schedule.levels([300])
    assert level.alpha == pytest.approx(0.7)
    assert level.sigma == pytest.approx(0.3)
    assert level.model_timestep == pytest.approx(float(real.fed(0.3)))


def test_a_lean_cut_model_gives_the_same_and_keeps_no_block(real: Real) -> None:
    loaded = load_backbone(str(real.folder), lean=True, depth=2)
    assert loaded.model.depth == 2
    assert not any(part in name for part in ("proj_out", "final_layer") for name in loaded.model.state_dict())
    x, timestep = torch.randn(1, 3, 8, 8), real.fed(0.4)
    expected = hooked(real.model, x, timestep, real.condition)
    for tap, value in loaded.model.features(x, timestep, loaded.condition).items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)
    blocks: Any = loaded.model.blocks
    assert all(parameter.is_meta for parameter in blocks.parameters())


def test_no_block_beyond_the_deepest_tap_runs_and_no_hook_stays(real: Real) -> None:
    model: Any = load_backbone(str(real.folder)).model
    model.blocks[2].forward = None  # fails when called
    x, timestep = torch.randn(1, 3, 8, 8), real.fed(0.4)
    model.features(x, timestep, real.condition, [Tap(block=1, component="mlp")])
    with pytest.raises(TypeError):
        model.features(x, timestep, real.condition)
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_reach_the_first_layer(real: Real) -> None:
    model: Any = load_backbone(str(real.folder)).model
    tap = Tap(block=1, component="attn_gated")
    model.features(torch.randn(1, 3, 8, 8), real.fed(0.4), real.condition, [tap])[tap].square().sum().backward()
    first = model.model.img_in if real.style.startswith("prx") else model.model.patch_embed.proj
    assert first.weight.grad is not None
    assert first.weight.grad.abs().max() > 0


@settings(max_examples=60, deadline=None)
@given(
    style=st.sampled_from(list(STYLES)),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    valid=st.integers(1, 4),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    draws=st.integers(1, 2),
    data=st.data(),
)
def test_folded_equals_unfolded(
    style: str,
    grid: tuple[int, int],
    valid: int,
    sigma: float,
    seed: int | None,
    draws: int,
    data: st.DataObject,
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers(style) - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    family, config = STYLES[style]
    model, condition = filled(family, config), random_condition(valid)
    noise = Noise(alpha=1 - sigma, sigma=sigma, model_timestep=sigma if family == "prx" else 1000 * sigma)
    height, width = (side * patch(style) for side in grid)
    values, eps = torch.randn(2, 3, height, width), fixed_noise((3, height, width), seed, draws)
    x = noise.alpha * (values * 0.7 + 0.2)[:, None] + noise.sigma * eps
    spec = FoldSpec.of(
        model,
        noise,
        taps,
        (height, width),
        noise_seed=seed,
        condition=condition,
        affine=Affine(0.7, 0.2),
        draws=draws,
    )
    with torch.no_grad():
        expected = model.features(x.flatten(0, 1), torch.full((2 * draws,), noise.model_timestep), condition, taps)
        got = fold(model, spec)(values)
    for tap_, value in zip(taps, got, strict=True):
        reference = expected[tap_].unflatten(0, (2, draws)).mean(1)
        error = (value.flatten(1, 2) - reference).abs().max() / reference.abs().max()
        assert error < 5e-5, (tap_, error)


def test_a_prompt_of_which_nothing_counts_leaves_prx_the_image_alone() -> None:
    model, condition = filled("prx", PRX), random_condition(0)
    tap, noise, x = Tap.parse("1.attn"), Noise(alpha=1, sigma=0, model_timestep=0), torch.randn(1, 3, 8, 12)
    with torch.no_grad():
        expected = model.features(x, torch.zeros(1), condition, [tap])[tap]
        spec = FoldSpec.of(model, noise, [tap], (8, 12), condition=condition, affine=Affine())
        (got,) = fold(model, spec)(x)
    torch.testing.assert_close(got.flatten(1, 2), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="mask without a valid token"):
        filled("sana", SANA).features(x, torch.zeros(1), condition)


def folded_for(family: str, tap: str, valid: int = 1) -> Folded:
    model = filled(family, {"prx": PRX, "sana": SANA}[family])
    noise = Noise(alpha=0.8, sigma=0.2, model_timestep=0.2)
    return fold(model, FoldSpec.of(model, noise, [Tap.parse(tap)], (8, 8), condition=random_condition(valid)))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_all_that_is_left_of_the_text_in_prx_is_keys_and_values() -> None:
    before, last = (shapes(block) for block in folded_for("prx", "1.query", valid=3).blocks)
    assert last == {"project.weight": (24, 24), "project.bias": (24,)}
    assert before == {
        "project.weight": (72, 24),
        "project.bias": (72,),
        "query.cos": (16, 1, 12),
        "query.sin": (16, 1, 12),
        "query.norm.weight": (12,),
        "key.cos": (16, 1, 12),
        "key.sin": (16, 1, 12),
        "key.norm.weight": (12,),
        "text.key": (1, 3, 24),
        "text.value": (1, 3, 24),
        "out.weight": (24, 24),
        "out.bias": (24,),
        "mlp.widen.weight": (120, 24),
        "mlp.widen.bias": (120,),
        "mlp.narrow.weight": (24, 60),
        "mlp.narrow.bias": (24,),
    }


def test_sanas_empty_prompt_is_a_bias_and_longer_ones_are_constants() -> None:
    before, last = (shapes(block) for block in folded_for("sana", "1.query").blocks)
    assert last == {"project.weight": (24, 24), "project.bias": (24,)}
    assert before == {
        "project.weight": (72, 24),
        "project.bias": (72,),
        "out.weight": (24, 24),
        "out.bias": (24,),
        "mlp.convolutions.widen.weight": (120, 24, 1, 1),
        "mlp.convolutions.widen.bias": (120,),
        "mlp.convolutions.depthwise.weight": (120, 1, 3, 3),
        "mlp.convolutions.depthwise.bias": (120,),
        "mlp.convolutions.narrow.weight": (24, 60, 1, 1),
    }
    several = shapes(folded_for("sana", "1.query", valid=3).blocks[0])
    assert {name: shape for name, shape in several.items() if name.startswith("cross")} == {
        "cross.key": (1, 3, 24),
        "cross.value": (1, 3, 24),
        "cross.query.weight": (24, 24),
        "cross.query.bias": (24,),
        "cross.output.weight": (24, 24),
        "cross.output.bias": (24,),
    }


@pytest.mark.parametrize("family", ["prx", "sana"])
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
def test_a_block_keeps_what_its_tap_needs(family: str, component: Component, names: set[str]) -> None:
    folded = folded_for(family, f"1.{component}")
    attends = {"query", "key", "text"} if family == "prx" and "out" in names else set()
    assert {name.partition(".")[0] for name in folded.blocks[1].state_dict()} == names | attends
    assert len(folded.blocks) == 2


def test_a_lean_fold_is_the_same_and_leaves_no_block_in_memory(real: Real) -> None:
    tap, noise = Tap(block=2, component="mlp"), Noise(alpha=0.8, sigma=0.2, model_timestep=0.2)
    lean, whole = load_backbone(str(real.folder), lean=True), load_backbone(str(real.folder))
    got, expected = (
        fold(one.model, FoldSpec.of(one.model, noise, [tap], (8, 8), condition=one.condition)).state_dict()
        for one in (lean, whole)
    )
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    blocks: Any = lean.model.blocks
    assert all(parameter.is_meta for parameter in blocks.parameters())


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("prx", {"bottleneck_size": 8}, "bottleneck_size = 8, expected None"),
        ("prx", {"resolution_embeds": True}, "resolution_embeds = True, expected False"),
        ("prx", {"depth": 0}, "depth = 0, expected 1 to 512"),
        ("prx", {"axes_dim": [6, 4]}, r"Got \[6, 4\] but expected positional dim 12"),
        ("prx", {"axes_dim": [7, 5]}, "two even numbers"),
        ("sana", {"guidance_embeds": True}, "guidance_embeds = True, expected False"),
        ("sana", {"timestep_scale": 1000.0}, "timestep_scale = 1000.0, expected 1"),
        ("sana", {"qk_norm": "rms_norm"}, "qk_norm = 'rms_norm', expected None or 'rms_norm_across_heads'"),
        ("sana", {"cross_attention_dim": 20}, "cross_attention_dim = 20, expected the width 24"),
        ("sana", {"cross_attention_dim": None}, "cross_attention_dim = None, expected 1 to 65536"),
    ],
)
def test_other_variants_and_invalid_values_in_the_config_are_refused(
    family: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(family_class(family), {**{"prx": PRX, "sana": SANA}[family], **change})


def test_the_published_sizes_are_understood() -> None:
    """diffusers' default configurations are PRX-1.2B (AutoencoderKL) and Sana-1.6B at 1024 pixels."""
    counted = {}
    for family in CLASSES:
        model = build(family_class(family), {})
        counted[family] = (model.depth, model.width, model.channels, model.side)
    assert counted == {"prx": (16, 1792, 16, 64), "sana": (20, 2240, 32, 32)}
