"""INT8 of every family's deployed graph, small: all its linear layers are found, named and close to FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aselect_calibration import Int8Weights, calibrate, calibration_frames, find_layers, prepare, quantised
from aselect_calibration.ranges import Ranges
from aselect_calibration.weights import Graph, WeightFile
from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.backbones.family import Backbone, Condition
from aselect_edge.backbones.jit import JiT
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_export.graph import LOGITS, trace
from aselect_runtime.records import HeadKind, HeadSpec, Noise, Resize, Tap
from tests.edge.test_rotary import random_model as random_rotary
from tests.edge.test_sd3 import random_condition, random_model

SIZE = (16, 16)
CLASSES = 5


def deployed(
    model: Backbone,
    condition: Condition | None,
    tap: str,
    folder: Path,
    outlier: str = "",
    planted: float = 0.0,
    discarded: tuple[tuple[int, ...], ...] = (),
    head: HeadKind = "linear",
) -> Graph:
    """`planted` is the bias of channel 3 of the patch embedding, which the residual stream carries on."""
    torch.manual_seed(0)
    taps = tuple(map(Tap.parse, tap.split(",")))
    built = build_head(HeadSpec(kind=head, channels=16), "seg", [model.width] * len(taps), CLASSES)
    for name, parameter in [*model.named_parameters(), *built.named_parameters()]:
        with torch.no_grad():
            fan = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn_like(parameter) * fan**-0.5 + float("norm" in name and "linear" not in name))
    if outlier:
        model.get_parameter(outlier).data[3] *= 30
    if planted:
        model.get_parameter("patch_embed.bias").data[3] = planted
    noise = Noise(alpha=0.95, sigma=0.3, model_timestep=50.0)
    tap_model = TapModel(model, built, noise, taps, SIZE, 0, condition=condition, discarded=discarded)
    return trace(tap_model.eval().requires_grad_(False).deployed(), "seg", 1, SIZE, folder)


def dit_xl() -> Backbone:
    """Two blocks of DiT-XL/2's width and heads."""
    return DiT(DiTConfig(16, 72, in_channels=3, num_layers=2, patch_size=2, sample_size=16, num_embeds_ada_norm=2))


def small_dit() -> Backbone:
    """Three blocks of width 64."""
    return DiT(DiTConfig(4, 16, in_channels=3, num_layers=3, patch_size=2, sample_size=16, num_embeds_ada_norm=2))


def sd35(folder: Path) -> LoadedBackbone:
    """Three small blocks of SD3.5: QK-norm, and a second attention in the first of them."""
    random_model(qk_norm="rms_norm", dual_attention_layers=(0,)).save_pretrained(folder / "transformer")
    save_condition(random_condition(), folder / CONDITION)
    return load_backbone(str(folder))


def jit() -> Backbone:
    """Three small blocks of JiT, whose context enters in the second."""
    return random_rotary(JiT, attention_head_dim=16, mlp_width=48)


@pytest.mark.parametrize("family", ["dit-xl", "sd3.5", "jit"])
def test_every_family_computes_in_int8(family: str, tmp_path: Path, street_data: Path) -> None:
    if family == "dit-xl":
        graph = deployed(dit_xl(), None, "1.query", tmp_path)
        expected = {"block0.attention.qkv", "block0.attention.out", "block0.mlp.in", "block0.mlp.out"}
    elif family == "jit":
        graph = deployed(jit(), None, "2.query", tmp_path)
        expected = {"block0.attention.qkv", "block1.mlp.in", "block1.mlp.out", "block2.attention.query"}
    else:
        loaded = sd35(tmp_path)
        graph = deployed(loaded.model, loaded.condition, "2.query", tmp_path)
        expected = {"block1.attention.qkv", "block1.attention.out", "block2.attention.query"}
    weights = WeightFile(tmp_path, "int8.weights")
    layers = find_layers(graph, LOGITS)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert expected <= set(names)
    assert not any("scores" in name or "mix" in name for name in names)
    by_norm = {layer.name for layer in layers if layer.norm is not None}
    assert by_norm >= {name for name in expected if name.endswith(("qkv", "query", "mlp.in"))}, "these can be smoothed"
    frames = calibration_frames(street_data, 4, SIZE, Resize())
    ranges = calibrate(graph, layers, frames, "mse", weights)
    ready = prepare(graph, layers, ranges, weights)
    int8 = quantised(ready.graph, layers, ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=True)
    batch = next(iter(frames))[None]
    exact, got = (
        one.session().infer(batch, [LOGITS])[LOGITS] for one in (graph, Graph(int8.model, int8.folder).check())
    )
    noise = ((got - exact) ** 2).mean() / exact.var()
    assert 0 < noise < 0.02
    linears = [node for node in int8.model.graph.node if node.op_type in ("MatMul", "Conv")]
    assert len([node for node in linears if ".dequantised" in node.input[1]]) == len(layers)


def int8_noise(graph: Graph, folder: Path, data: Path) -> float:
    """Mean squared error of the INT8 logits over the variance of the exact ones from frame to frame."""
    weights, layers = WeightFile(folder, "int8.weights"), find_layers(graph, LOGITS)
    frames = calibration_frames(data, 4, SIZE, Resize())
    ranges = calibrate(graph, layers, frames, "mse", weights)
    ready = prepare(graph, layers, ranges, weights)
    int8 = quantised(ready.graph, layers, ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=True)
    sessions = [one.session() for one in (graph, Graph(int8.model, int8.folder).check())]
    exact, got = (np.concatenate([one.infer(frame[None], [LOGITS])[LOGITS] for frame in frames]) for one in sessions)
    return float(((got - exact) ** 2).mean() / exact.var(axis=0).mean())


@pytest.mark.parametrize(("head", "taps"), [("edge", "0.hidden,2.query"), ("conv", "1.hidden")])
def test_int8_gains_where_a_massive_channel_is_discarded(
    head: HeadKind, taps: str, tmp_path: Path, street_data: Path
) -> None:
    """Behind a norm (conv) or without one (edge): the massive channel leaves the others few of INT8's steps."""
    found = {}
    for name, discarded in (("with", ()), ("without", ((3,), ())[: 1 + taps.count(",")])):
        (tmp_path / name).mkdir()
        graph = deployed(small_dit(), None, taps, tmp_path / name, planted=400.0, discarded=discarded, head=head)
        found[name] = int8_noise(graph, tmp_path / name, street_data)
    print(f"INT8 noise of the {head} head: {found['with']:.3g}, without the massive channel {found['without']:.3g}")
    assert found["without"] < 0.1 * found["with"]


def test_the_shipped_ranges_are_those_of_the_shipped_graph(tmp_path: Path) -> None:
    bundle = load_bundle(SHIPPED["seg"])
    graph = trace(bundle.deployed(), "seg", 1, bundle.record.imgsz, tmp_path)
    ranges = Ranges.load(bundle.folder / "ranges.json")
    prepare(graph, find_layers(graph, LOGITS), ranges, WeightFile(tmp_path, "int8.weights"))


def test_outliers_behind_an_rms_norm_are_smoothed_and_the_graph_computes_the_same(
    tmp_path: Path, street_data: Path
) -> None:
    graph = deployed(jit(), None, "2.query", tmp_path, outlier="blocks.1.norm1.weight")
    weights, layers = WeightFile(tmp_path, "int8.weights"), find_layers(graph, LOGITS)
    frames = calibration_frames(street_data, 4, SIZE, Resize())
    ranges = calibrate(graph, layers, frames, "mse", weights)
    (norm,) = {layer.norm for layer in layers if layer.name == "block1.attention.qkv"}
    assert norm is not None
    factors = ranges.smoothing[norm].factors
    assert max(factors) == factors[3] > 3 * sorted(factors)[-2]
    ready = prepare(graph, layers, ranges, weights)
    batch = next(iter(frames))[None]
    exact, got = (one.session().infer(batch, [LOGITS])[LOGITS] for one in (graph, ready.graph.check()))
    assert abs(got - exact).max() < 1e-4 * abs(exact).max()
