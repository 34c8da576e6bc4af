"""SD3 against plain hooks on the real diffusers class, and its fold against SD3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import Affine, expand
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.backbones.sd3 import SD3
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_edge.fold.sd3 import FoldedSD3, contexts
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, Component, Noise, Tap

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "caption_projection_dim": 24,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 10,
}
STYLES: dict[str, dict[str, Any]] = {
    "sd3-medium": {},
    "sd3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "sd3.5-large": {"qk_norm": "rms_norm"},
}


@dataclass(frozen=True)
class Real:
    """A random model of the real class, and where it was saved."""

    model: SD3Transformer2DModel
    folder: Path
    condition: dict[str, Tensor]


def random_model(**config: Any) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**{**SMALL, **config}).eval()
    for name, parameter in model.named_parameters():  # near one where it is a norm's weight
        nn.init.normal_(parameter, mean=float(".norm_" in name), std=0.15)
    return model


def random_condition(config: dict[str, Any] = SMALL, length: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"prompt": (1, length, config["joint_attention_dim"]), "pooled": (1, config["pooled_projection_dim"])}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module", params=STYLES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    model, condition = random_model(**STYLES[request.param]), random_condition()
    folder = tmp_path_factory.mktemp("sd3")
    model.save_pretrained(folder / "transformer")
    save_condition(condition, folder / CONDITION)
    return Real(model, folder, condition)


def hooked(real: Real, x: Tensor, timestep: Tensor) -> dict[Tap, Tensor]:
    """Every component of every block of the real model, by hooks of this test's own."""
    seen: dict[str, Any] = {}
    hooks = []
    for i, block in enumerate(real.model.transformer_blocks):
        places = {"query": block.attn.to_q, "key": block.attn.to_k, "value": block.attn.to_v}
        places |= {"attn": block.attn.to_out[0], "mlp": block.ff, "norm1": block.norm1}
        for name, module in places.items():
            hooks.append(module.register_forward_hook(lambda _m, _a, out, at=f"{i}.{name}": seen.update({at: out})))
        hooks.append(
            block.register_forward_pre_hook(
                lambda _m, _a, kw, at=f"{i}.hidden": seen.update({at: kw["hidden_states"]}), with_kwargs=True
            )
        )
    prompt, pooled = (real.condition[name].repeat(len(x), *[1] * (n - 1)) for name, n in (("prompt", 3), ("pooled", 2)))
    with torch.no_grad():
        real.model(x, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=timestep)
    for hook in hooks:
        hook.remove()
    for i in range(len(real.model.transformer_blocks)):
        seen[f"{i}.adaln"], gate, *_ = seen.pop(f"{i}.norm1")
        seen[f"{i}.attn_gated"] = gate[:, None] * seen[f"{i}.attn"]
    return {Tap.parse(name): value for name, value in seen.items()}


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_taps_equal_hooks_on_diffusers(real: Real, size: tuple[int, int]) -> None:
    loaded = load_backbone(str(real.folder))
    x, timestep = torch.randn(2, 3, *size), torch.tensor([50.0, 50.0])
    expected = hooked(real, x, timestep)
    with torch.no_grad():
        features = loaded.model.features(x, timestep, loaded.condition)
    assert features.keys() == expected.keys()
    assert len(features) == 3 * len(COMPONENTS)
    for tap, value in expected.items():
        torch.testing.assert_close(features[tap], value, rtol=1e-5, atol=1e-5)


def test_a_condition_for_each_image_of_a_batch_is_one_too(real: Real) -> None:
    model, x, timestep = load_backbone(str(real.folder)).model, torch.randn(2, 3, 8, 8), torch.tensor([50.0, 50.0])
    features = model.features(x, timestep, real.condition)
    for tap, value in model.features(x, timestep, expand(real.condition, 2)).items():
        torch.testing.assert_close(value, features[tap])


def test_the_first_blocks_are_those_of_the_whole_model(real: Real) -> None:
    # Cut after two of three blocks, the second must not become the kind that drops its context.
    loaded = load_backbone(str(real.folder), depth=2)
    assert isinstance(loaded.model, SD3)
    assert [block.context_pre_only for block in loaded.model.model.transformer_blocks] == [False, False]
    assert not any("proj_out" in name or "norm_out" in name for name in loaded.model.state_dict())
    x, timestep = torch.randn(1, 3, 8, 8), torch.tensor([400.0])
    expected = hooked(real, x, timestep)
    with torch.no_grad():
        features = loaded.model.features(x, timestep, loaded.condition)
    assert len(features) == 2 * len(COMPONENTS)
    for tap, value in features.items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="block 2, expected 0 to 1"):
        loaded.model.features(x, timestep, loaded.condition, [Tap(block=2, component="key")])


def test_a_lean_model_gives_the_same_and_keeps_no_block(real: Real) -> None:
    loaded = load_backbone(str(real.folder), lean=True)
    x, timestep = torch.randn(1, 3, 8, 8), torch.tensor([400.0])
    expected = hooked(real, x, timestep)
    for tap, value in loaded.model.features(x, timestep, loaded.condition).items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)
    assert isinstance(loaded.model, SD3)
    assert all(parameter.is_meta for parameter in loaded.model.model.transformer_blocks.parameters())


def test_no_block_beyond_the_deepest_tap_runs_and_no_hook_stays(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    assert isinstance(model, SD3)
    model.model.transformer_blocks[2].ff = nn.Bilinear(1, 1, 1)  # fails on one argument
    model.features(torch.randn(1, 3, 8, 8), torch.tensor([50.0]), real.condition, [Tap(block=1, component="mlp")])
    with pytest.raises(TypeError):
        model.features(torch.randn(1, 3, 8, 8), torch.tensor([50.0]), real.condition)
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_reach_the_first_layer(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    assert isinstance(model, SD3)
    tap = Tap(block=1, component="attn_gated")
    model.features(torch.randn(1, 3, 8, 8), torch.tensor([50.0]), real.condition, [tap])[tap].square().sum().backward()
    gradient = model.model.pos_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("size", "message"), [((22, 16), "at most 10x10"), ((16, 15), "multiples of the patch")])
def test_a_size_it_cannot_take_is_refused(size: tuple[int, int], message: str) -> None:
    model = build(SD3, SMALL)
    with pytest.raises(InputError, match=message):
        model.grid(*size)
    assert model.grid(20, 8) == (10, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm = 'layer_norm', expected None or 'rms_norm'"),
        ({"num_layers": 0}, "num_layers = 0, expected 1 to 512"),
        ({"caption_projection_dim": 32}, "caption_projection_dim = 32, expected the width 24"),
        ({"dual_attention_layers": 7}, "not understood"),
    ],
)
def test_invalid_values_in_the_config_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(SD3, {**SMALL, **change})


def test_a_condition_of_another_model_is_refused(real: Real) -> None:
    model = load_backbone(str(real.folder)).model
    wrong = {**real.condition, "pooled": torch.zeros(1, 99)}
    with pytest.raises(InputError, match="got 1x99 pooled, expected 1x12"):
        model.features(torch.randn(1, 3, 8, 8), torch.tensor([50.0]), wrong)
    with pytest.raises(InputError, match="got no tensor prompt, expected 1xanyx20"):
        model.features(torch.randn(1, 3, 8, 8), torch.tensor([50.0]), {"label": torch.tensor([3])})


def test_noise_is_what_is_meant_whatever_the_samplers_shift() -> None:
    for shift in (1.0, 3.0):
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift}
        (level,) = SD3.schedule(config).levels([50])
        assert (level.alpha, level.sigma, level.model_timestep) == (0.95, 0.05, 50)


def filled(config: dict[str, Any]) -> SD3:
    """The family's module with the weights of a random model."""
    model = build(SD3, config)
    state = random_model(**config).state_dict()
    model.load_state_dict({ours: state[theirs] for ours, theirs in model.keys().items()}, assign=True)
    assert isinstance(model, SD3)
    return model.eval().requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    dim=st.sampled_from([4, 8, 12]),
    layers=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    length=st.integers(1, 5),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    draws=st.integers(1, 2),
    qk_norm=st.sampled_from([None, "rms_norm"]),
    data=st.data(),
)
def test_folded_equals_unfolded(
    heads: int,
    dim: int,
    layers: int,
    grid: tuple[int, int],
    length: int,
    sigma: float,
    seed: int | None,
    draws: int,
    qk_norm: str | None,
    data: st.DataObject,
) -> None:
    tap = st.builds(Tap, block=st.integers(0, layers - 1), component=st.sampled_from(COMPONENTS))
    taps = data.draw(st.lists(tap, min_size=1, max_size=3, unique=True))
    config = {
        **SMALL,
        "num_layers": layers,
        "attention_head_dim": dim,
        "num_attention_heads": heads,
        "caption_projection_dim": heads * dim,
        "qk_norm": qk_norm,
        "dual_attention_layers": tuple(data.draw(st.sets(st.integers(0, layers - 1)))),
    }
    model, condition = filled(config), random_condition(length=length)
    noise = Noise(alpha=1 - sigma, sigma=sigma, model_timestep=1000 * sigma)
    size, affine = (grid[0] * 2, grid[1] * 2), Affine(1.5, -0.1)
    values, eps = torch.randn(2, 3, *size), fixed_noise((3, *size), seed, draws)
    x = noise.alpha * (values * 1.5 - 0.1)[:, None] + noise.sigma * eps
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


def test_contexts_are_carried_no_further_than_they_are_read() -> None:
    assert contexts(2, 2) == ["carried", "read", "none"]
    assert contexts(2, 3) == ["carried", "carried", "read"]
    assert contexts(0, 2) == ["none"]
    assert contexts(0, 4) == ["read"]
    assert contexts(1, 0) == ["read", "none"]


def folded_for(tap: str, style: str = "sd3.5-medium") -> FoldedSD3:
    config = {**SMALL, **STYLES[style], "num_layers": 4}
    noise = Noise(alpha=0.95, sigma=0.05, model_timestep=50)
    model = filled(config)
    folded = fold(
        model, FoldSpec.of(model, noise, [Tap.parse(tap)], (8, 8), noise_seed=0, condition=random_condition())
    )
    assert isinstance(folded, FoldedSD3)
    return folded


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_a_query_tap_keeps_one_projection_and_no_context() -> None:
    folded = folded_for("3.query")
    assert shapes(folded.blocks[3]) == {"project.weight": (24, 24), "project.bias": (24,)}
    before = shapes(folded.blocks[2])  # no dual attention in this block: three projections of the image
    assert before["project.weight"] == (72, 24)
    assert {name: shape for name, shape in before.items() if "context" in name} == {
        "context_tokens.projection.weight": (48, 24),  # its keys and values, not its queries
        "context_tokens.projection.bias": (48,),
        "context_tokens.key_norm.weight": (8,),
    }
    carried = shapes(folded.blocks[1])
    assert carried["context_tokens.projection.weight"] == (72, 24)
    assert carried["context_mlp.widen.weight"] == (96, 24)
    assert carried["project.weight"] == (144, 24)  # and the second attention's
    first = shapes(folded.blocks[0])
    assert {name for name in first if name.startswith("context_tokens")} == {
        f"context_tokens.{name}" for name in ("query", "key", "value")
    }
    assert first["context_tokens.key"] == (1, 5, 24)
    assert not any("adaln" in name or "time" in name or "norm1" in name for name in folded.state_dict())


@pytest.mark.parametrize(
    ("component", "names"),
    [
        ("hidden", set()),
        ("adaln", {"scale1", "shift1"}),
        ("value", {"project"}),
        ("attn", {"project", "query_norm", "key_norm", "out", "context_tokens"}),
        ("attn_gated", {"project", "query_norm", "key_norm", "out", "context_tokens"}),
        (
            "mlp",
            {"project", "query_norm", "key_norm", "query_norm2", "key_norm2", "out", "out2", "context_tokens", "mlp"},
        ),
    ],
)
def test_a_block_keeps_what_its_tap_needs(component: Component, names: set[str]) -> None:
    folded = folded_for(f"1.{component}")
    assert {name.partition(".")[0] for name in folded.blocks[1].state_dict()} == names
    assert len(folded.blocks) == 2
    assert ("context" in folded.state_dict()) == (component in ("attn", "attn_gated", "mlp"))


def test_a_lean_fold_is_the_same_and_leaves_no_block_in_memory(real: Real) -> None:
    tap, noise = Tap(block=2, component="attn"), Noise(alpha=0.9, sigma=0.1, model_timestep=100)
    lean, whole = load_backbone(str(real.folder), lean=True, depth=3), load_backbone(str(real.folder))
    got = fold(
        lean.model, FoldSpec.of(lean.model, noise, [tap], (8, 8), noise_seed=0, condition=lean.condition)
    ).state_dict()
    expected = fold(
        whole.model, FoldSpec.of(whole.model, noise, [tap], (8, 8), noise_seed=0, condition=whole.condition)
    ).state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    assert all(value.is_meta for name, value in lean.model.state_dict().items() if "transformer_blocks" in name)


def test_of_a_query_taps_block_only_what_survives_is_read(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_backbone(str(real.folder), lean=True, depth=3)
    store = loaded.model.store
    assert store is not None
    read: set[str] = set()

    def noted(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        read.update(names := list(names))
        return original(names)

    original = store.read
    monkeypatch.setattr(store, "read", noted)
    noise = Noise(alpha=0.9, sigma=0.1, model_timestep=100)
    fold(
        loaded.model,
        FoldSpec.of(
            loaded.model, noise, [Tap(block=2, component="query")], (8, 8), noise_seed=0, condition=loaded.condition
        ),
    )
    block = "model.transformer_blocks.2."
    assert {name.removeprefix(block) for name in read if name.startswith(block)} == {
        f"{layer}.{leaf}" for layer in ("norm1.linear", "attn.to_q") for leaf in ("weight", "bias")
    }
