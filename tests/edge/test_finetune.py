"""Fine-tuning every family in every way: what should learn does, nothing else, and what comes out is ordinary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.backbones import DiT, DiTConfig, LoadedBackbone, load_backbone
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_edge.backbones.sit import PathSchedule, SiT
from aselect_edge.bundle import load_bundle, save_bundle, tap_model
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_edge.training import train_bundle
from aselect_edge.training.denoise import Noised
from aselect_edge.training.finetune import (
    LowRank,
    Unfreeze,
    denoising_loss,
    joint_loss,
    merge,
    noising_of,
    on_path,
    unfreeze,
)
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.request import TrainRequest
from aselect_export.exporting import export
from aselect_runtime.errors import InputError
from aselect_runtime.records import Bundle, HeadSpec, Noise, Selection, Tap
from tests.export.test_families import DIT, bundle_of, condition_of
from tests.log_lines import heard

SIZE = (32, 32)
TAP = Tap(block=1, component="query")
"""Of three blocks: one before it, one that only the denoising loss reaches."""
RECIPE = Recipe(batch=2, denoising_windows=2, window=4)
WAYS = ("all", "last:1", "lora:2")
EXPORTED = {"dit-pixels": "all", "sd3": "lora:2", "pixart": "last:1"}
"""Exporting takes seconds, and a bundle's graph comes from `deployed`, which is compared with every way and family."""

pytestmark = pytest.mark.usefixtures("undrawn")


@dataclass(frozen=True)
class Family:
    """A family with random weights on disk: `backbone()` loads it anew."""

    name: str
    record: Bundle
    backbone: Callable[[], LoadedBackbone]

    def model(self, *taps: Tap) -> TapModel:
        torch.manual_seed(0)
        backbone = self.backbone()
        record = self.record.model_copy(update={"taps": taps or (TAP,)})
        head = build_head(record.head, "seg", [backbone.model.width] * len(record.taps), len(record.classes))
        return tap_model(backbone, head, record)


@pytest.fixture(scope="module", params=["dit-pixels", "sit", "sd3", "pixart"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder, name = tmp_path_factory.mktemp(request.param), request.param.removesuffix("-pixels")
    record = bundle_of(name, folder).record
    source = record.backbone.model_copy(update={"file": "backbone.safetensors"})
    if request.param == "dit-pixels":
        torch.manual_seed(0)
        pixels = DiTTransformer2DModel(**DIT, in_channels=3, sample_size=16, patch_size=4)
        for parameter in pixels.parameters():
            nn.init.normal_(parameter, std=0.15)
        folder = tmp_path_factory.mktemp("pixels")
        pixels.save_pretrained(folder / "transformer")
        config = load_backbone(str(folder)).model.to_json()
        source = source.model_copy(update={"source": str(folder), "config": config})
    record = record.model_copy(update={"backbone": source, "taps": (TAP,)})
    return Family(request.param, record, lambda: load_backbone(str(folder), family=name, condition=condition_of(name)))


def pixels(seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed)) * 255


def three_steps(model: TapModel, parameters: list[nn.Parameter]) -> None:
    """Training as it is, on noise: the task's loss, and the denoising loss where the family has one."""
    optimiser = torch.optim.AdamW([*parameters, *model.head.parameters()], lr=1e-2)
    noising = noising_of(model.backbone, None)
    for step in range(3):
        labels = torch.full((2, *model.grid), step)
        loss = F.cross_entropy(model(pixels(step)), labels)
        if noising is not None:
            loss = joint_loss(loss, model, pixels(step), noising, np.random.default_rng(step), RECIPE)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def in_block(index: int) -> tuple[str, ...]:
    return f"blocks.{index}.", f"model.transformer_blocks.{index}."


def query_of(index: int) -> set[str]:
    own, attention = in_block(index)
    return {f"{own}query.weight", f"{attention}attn.to_q.weight", f"{attention}attn1.to_q.weight"}


def as_stored(model: TapModel) -> None:
    """Round the weights as a bundle does, so that what is left to differ is the fold."""
    with torch.no_grad():
        for parameter in (*model.backbone.parameters(), *model.head.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())


@pytest.mark.parametrize("way", WAYS)
def test_only_what_should_learn_learns_and_comes_out_as_an_ordinary_model(
    family: Family, way: str, tmp_path: Path
) -> None:
    model = family.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    three_steps(model, unfreeze(model, Unfreeze.parse(way)))
    trained = model.eval()(pixels()).detach()
    merge(model)
    with torch.no_grad():
        assert (model(pixels()) - trained).abs().max() <= 1e-5 * trained.abs().max()

    learnt = changed(before, model.state_dict())
    assert "head.body.classify.weight" in learnt
    assert not [name for name in learnt if name.startswith("encoder.")]
    backbone = {name.removeprefix("backbone.") for name in learnt if name.startswith("backbone.")}
    assert query_of(1) & backbone
    assert bool(query_of(0) & backbone) == (way != "last:1")
    denoises = noising_of(model.backbone, None) is not None
    if way == "all":
        assert any(name.endswith(("patch_embed.weight", "pos_embed.proj.weight")) for name in backbone)
        assert ("final.weight" in backbone) == denoises
        assert bool(query_of(2) & backbone) == denoises
    else:
        blocks = in_block(1) if way == "last:1" else (*in_block(0), *in_block(1))
        assert all(name.startswith(blocks) for name in backbone)
        assert any("mlp_out" in name for name in backbone if name.startswith(in_block(1))) == denoises
    if way == "lora:2":
        assert all(name.endswith(".weight") for name in backbone)

    as_stored(model)
    expected = model(pixels()).detach()
    selection = Selection(backbone="random", noise=model.noise, tap=TAP, strategy="manual")
    save_bundle(tmp_path / "bundle", family.record, selection, model)
    saved = load_bundle(tmp_path / "bundle")
    with torch.no_grad():
        difference = (saved.deployed()(pixels()) - expected).abs().max()
    assert difference <= 1e-4 * max(1.0, float(expected.abs().max()))
    if EXPORTED.get(family.name) == way:
        report = export(saved, "fp32", tmp_path / "out", engine="none", ladder=False).report
        assert [parity.graph for parity in report.parity] == ["fp32"]
        assert report.parity[0].max_error <= 1e-4


def saved_bytes(model: TapModel) -> int:
    """What a forward pass keeps for the backward pass, weights apart."""
    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(pixels())
    assert logits.requires_grad
    return sum(kept.values())


def test_nothing_is_kept_of_frozen_blocks(family: Family) -> None:
    model = family.model(Tap(block=2, component="query"))
    blocks: Any = getattr(model.backbone, "blocks", None) or model.backbone.get_submodule("model.transformer_blocks")
    graphs: dict[int, bool] = {}
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: graphs.update({index: with_graph(out)}))
    kept = []
    for way, expected in {"last:1": {2}, "last:2": {1, 2}, "last:3": {0, 1, 2}, "lora:2": {0, 1, 2}}.items():
        unfreeze(model, Unfreeze.parse(way))
        kept.append(saved_bytes(model))
        assert {index for index, has in graphs.items() if has} == expected
    assert kept[0] < 0.7 * kept[1] < 0.7 * kept[2]


def with_graph(out: Tensor | tuple[Tensor | None, ...]) -> bool:
    return any(o is not None and o.requires_grad for o in (out if isinstance(out, tuple) else (out,)))


def test_blocks_are_counted_from_what_the_taps_depend_on(family: Family) -> None:
    model = family.model(Tap(block=0, component="query"), Tap(block=2, component="hidden"))
    unfreeze(model, Unfreeze.parse("last:1"))
    learning = {name for name, weight in model.backbone.named_parameters() if weight.requires_grad}
    assert learning
    assert all(name.startswith(in_block(1)) for name in learning)
    assert all(weight.requires_grad for weight in model.head.parameters())


@pytest.mark.parametrize(
    ("tap", "way", "expected"),
    [
        ("1.query", "last:3", r"expected at most last:2, because the taps depend on 2 blocks"),
        ("0.hidden", "last:1", r"expected all"),
        ("0.hidden", "lora:1", r"expected all"),
        ("1.query", "lora:25", r"expected at most lora:24"),
    ],
)
def test_more_than_there_is_is_refused(backbone: DiT, tap: str, way: str, expected: str) -> None:
    model = TapModel(backbone, build_head(HEAD, "seg", [24], 2), NOISE, [Tap.parse(tap)], SIZE, 0)
    with pytest.raises(InputError, match=expected):
        unfreeze(model, Unfreeze.parse(way))


@pytest.mark.parametrize(
    "text", ["", "none", "last", "last:0", "last:-1", "last:x", "lora:", "lora:1.5", "all:2", "last:٣"]
)
def test_invalid_values_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected all, last:N or lora:R"):
        Unfreeze.parse(text)


@pytest.mark.parametrize("text", ["all", "last:4", "lora:16"])
def test_ways_are_written_as_they_are_read(text: str) -> None:
    assert str(Unfreeze.parse(text)) == text


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 9), outputs=st.integers(1, 9), rank=st.integers(1, 4), bias=st.booleans())
def test_an_update_starts_at_nothing_and_merges_into_the_layer(
    inputs: int, outputs: int, rank: int, bias: bool
) -> None:
    torch.manual_seed(inputs)
    plain, x = nn.Linear(inputs, outputs, bias).requires_grad_(False), torch.randn(3, 5, inputs)
    lowered = LowRank(plain, rank)
    assert torch.equal(lowered(x), plain(x))
    nn.init.normal_(lowered.up)
    merged = lowered.merged()
    assert type(merged) is nn.Linear
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(x), lowered(x))
    assert torch.linalg.matrix_rank(merged.weight - plain.weight, rtol=1e-4) <= rank


CONFIG = DiTConfig(2, 12, 3, num_layers=3, patch_size=4, sample_size=16, num_embeds_ada_norm=3)
HEAD = HeadSpec(kind="linear", channels=1)
NOISE = Noise(alpha=0.99, sigma=0.14, model_timestep=50)


@pytest.fixture
def backbone() -> DiT:
    torch.manual_seed(0)
    return DiT(CONFIG)


def test_a_model_denoises_as_it_was_trained(backbone: DiT) -> None:
    x0 = torch.randn(4, 3, 8, 8)
    for kind in ("epsilon", "v_prediction"):
        noising = noising_of(backbone, {**DIT_SCHEDULE, "prediction_type": kind})
        assert noising is not None
        noised = noising(x0)
        alpha = noised.signal.sqrt()[:, None, None, None]
        sigma = (1 - noised.signal).sqrt()[:, None, None, None]
        found = alpha * noised.x - sigma * noised.target if kind == "v_prediction" else None
        torch.testing.assert_close(
            (noised.x - sigma * noised.target) / alpha if found is None else found, x0, rtol=1e-3, atol=1e-2
        )
    assert noising_of(SiT(CONFIG), None) is not None
    assert noising_of(DiT(CONFIG, depth=2), None) is None, "a cut model has no output layer"


@pytest.mark.parametrize("time", ["1-sigma", "sigma"])
@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
def test_a_path_is_the_one_that_sit_is_deployed_on(time: str, path: str) -> None:
    """x is what is deployed at that time, and the target its derivative by what the model is fed."""
    x0, config = torch.randn(4, 3, 8, 8).double(), {"time": time, "path": path}
    noising, meant = noising_of(SiT(CONFIG), config), SiT.schedule(config)
    assert noising is not None
    torch.manual_seed(1)
    noised = noising(x0)
    torch.manual_seed(1)
    torch.rand(4)
    eps = torch.randn_like(x0)
    for i, fed in enumerate(noised.timestep.double().tolist()):
        tau, step = (fed if time == "sigma" else 1 - fed), 1e-5
        here, before, after = meant.levels([1000 * t for t in (tau, tau - step, tau + step)])
        assert here.model_timestep == pytest.approx(fed, abs=1e-6)
        torch.testing.assert_close(noised.x[i], here.alpha * x0[i] + here.sigma * eps[i], rtol=1e-5, atol=1e-5)
        change = after.model_timestep - before.model_timestep
        slope = [(after.alpha - before.alpha) / change, (after.sigma - before.sigma) / change]
        torch.testing.assert_close(noised.target[i], slope[0] * x0[i] + slope[1] * eps[i], rtol=1e-3, atol=1e-3)


def test_a_dit_with_a_flow_scheduler_denoises_in_diffusers_direction(backbone: DiT) -> None:
    x0 = torch.randn(4, 3, 8, 8)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500}
    noising = noising_of(backbone, config)
    assert noising is not None
    noised = noising(x0)
    sigma = (noised.timestep / 500)[:, None, None, None]
    eps = x0 + noised.target  # their step: the velocity is eps - x0
    torch.testing.assert_close(noised.x, (1 - sigma) * x0 + sigma * eps, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(noised.signal, (1 - noised.timestep / 500).square(), rtol=1e-3, atol=1e-4)
    solver = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "epsilon"}
    with pytest.raises(InputError, match="got prediction_type 'epsilon' on the straight path"):
        noising_of(backbone, solver)


def test_the_generator_alone_decides_windows_and_noise(family: Family) -> None:
    model = family.model()
    noising = noising_of(model.backbone, None)
    if noising is None:
        assert family.name in ("sd3", "pixart")
        return
    state, losses = torch.get_rng_state(), []
    for seed in (3, 3, 4):
        losses.append(denoising_loss(model, pixels(), noising, np.random.default_rng(seed), RECIPE).item())
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state), "training's own draws are left alone"


def test_windows_are_cut_from_what_the_encoder_gives(family: Family) -> None:
    model = family.model()
    if not isinstance(model.backbone, DiT):
        pytest.skip("has no output layer, and so no denoising loss")
    model.condition = {"label": torch.tensor([1])}
    seen: dict[str, Tensor] = {}

    def noising(x0: Tensor) -> Noised:
        seen["x0"] = x0
        return Noised(x0, torch.full((len(x0),), 0.5), torch.zeros_like(x0), torch.ones(len(x0)))

    labels: list[Tensor] = []
    model.backbone.conditioning[0].register_forward_pre_hook(lambda _m, inputs: labels.append(inputs[1]))
    denoising_loss(model, pixels(), noising, np.random.default_rng(0), RECIPE)
    with torch.no_grad():
        whole = model.encoder.x0(pixels())
    assert seen["x0"].shape == (2, model.backbone.channels, 4, 4)
    assert not seen["x0"].requires_grad
    for window, image in zip(seen["x0"], whole, strict=True):
        places = image.unfold(1, 4, 1).unfold(2, 4, 1)  # (C, rows, columns, 4, 4)
        assert (places == window[:, None, None]).all(dim=(0, 3, 4)).any()
    assert labels[0].tolist() == [1, 1], "the model's own condition"


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), window=st.integers(1, 40))
def test_windows_fit_any_frame(rows: int, columns: int, window: int) -> None:
    size = (rows * 4, columns * 4)
    model = TapModel(DiT(CONFIG), build_head(HEAD, "seg", [24], 2), NOISE, [TAP], size, 0)
    recipe = Recipe(batch=2, denoising_windows=3, window=window)

    def noising(x0: Tensor) -> Noised:
        assert x0.shape == (3, 3, *[min(max(1, window // 4), rows, columns) * 4] * 2)
        return on_path(PathSchedule(), x0)

    assert torch.isfinite(denoising_loss(model, pixels(size=size), noising, np.random.default_rng(0), recipe))


@pytest.mark.parametrize(("family", "way"), [("sit", "lora:2"), ("sd3", "last:1")], indirect=["family"])
def test_a_bundle_is_fine_tuned_further(family: Family, way: str, street_data: Path, tmp_path: Path) -> None:
    """From the published model, and from a bundle, which is cut and knows its autoencoder only by name."""
    selection = Selection(backbone="random", noise=family.record.noise, tap=TAP, strategy="manual")
    recipe = Recipe(samples=4, batch=2, validations=1, window=4, denoising_windows=2, synthetic=0)
    source: str | LoadedBackbone = family.backbone()
    for name in ("first", "second"):
        request = TrainRequest(
            task="seg",
            source=source,
            selection=selection,
            data=street_data,
            out=tmp_path / name,
            imgsz=SIZE,
            head=HEAD,
            recipe=recipe,
            unfreeze=Unfreeze.parse(way),
        )
        told: list[str] = []
        with heard(told.append):
            model = train_bundle(request).model
        alone = [line for line in told if "only with the task's loss" in line]
        assert bool(alone) == (family.name == "sd3" or name == "second")
        saved = load_bundle(request.out)
        assert saved.record.finetuned
        with torch.no_grad():
            assert (saved.deployed()(pixels()) - model(pixels())).abs().max() < 0.05 * model(pixels()).abs().max()
        source = str(request.out)
