"""PRX and Sana all the way: selected, trained, exported in FP16 and INT8, built, and run on frames."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from onnx import ModelProto, TensorProto

from aselect_calibration.settings import Int8Settings
from aselect_edge import api
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.bundle import LoadedBundle, load_bundle
from aselect_export.exporting import ExportResult, export
from aselect_export.graph import trace
from aselect_runtime.commands.run import run
from aselect_runtime.engines import build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.records import Manifest
from tests.bundles import command
from tests.edge import test_encoders
from tests.edge.prompted_reference import PRX, SANA, random_condition, random_model
from tests.export.test_graph import FORBIDDEN, operations
from tests.log_lines import heard

SIZE = (32, 48)
TAPS = {"prx": "2.query", "prx-dc": "1.mlp", "sana": "2.query", "sana-1.5": "1.mlp"}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "prx": ("prx", PRX | {"in_channels": 4}),
    "prx-dc": ("prx", PRX | {"in_channels": 4, "patch_size": 1}),
    "sana": ("sana", SANA | {"in_channels": 4, "out_channels": 4, "patch_size": 1}),
    "sana-1.5": (
        "sana",
        SANA | {"in_channels": 4, "out_channels": 4, "patch_size": 1, "qk_norm": "rms_norm_across_heads"},
    ),
}
VALID = {"prx": 1, "prx-dc": 3, "sana": 1, "sana-1.5": 3}
"""Tokens of the prompt that count: one, as of the empty prompt, and several."""


Frozen = Callable[[str], LoadedBundle]


@dataclass(frozen=True)
class Made:
    """A small model with random weights, from diffusers' folder to the exported folder."""

    name: str
    bundle: LoadedBundle
    result: ExportResult

    def graph(self, name: str) -> ModelProto:
        return onnx.load(self.result.folder / name)


def saved(name: str, folder: Path) -> Path:
    """A pipeline's folder: transformer, autoencoder (AutoencoderKL, stride 2, or AutoencoderDC, stride 8), prompt."""
    family, config = CONFIGS[name]
    random_model(family, config).save_pretrained(folder / "model" / "transformer")
    vae = AutoencoderKL(**test_encoders.KL) if name == "prx" else AutoencoderDC(**test_encoders.DC)
    torch.manual_seed(0)
    for key, parameter in vae.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in key and key.endswith("weight")), 0.15)
    vae.save_pretrained(folder / "model" / "vae")
    save_condition(random_condition(VALID[name]), folder / "model" / CONDITION)
    return folder / "model"


def trained(name: str, folder: Path, data: Path, finetune: bool = False) -> LoadedBundle:
    """The bundle of a saved model: its noise selected, its head trained on a few scenes."""
    model, out = saved(name, folder), folder / ("finetuned" if finetune else "frozen")
    options: dict[str, Any] = {"imgsz": (32, 32) if name == "prx" else (64, 64)}
    choice = api.select(model, data, strategy="hfr", timesteps=(50, 400), images=2, **options)
    api.train(
        model,
        choice,
        data,
        out,
        taps=TAPS[name],
        samples=8,
        finetune=finetune,
        backbone_lr=1e-2 if finetune else None,
        **options,
    )
    return load_bundle(out)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, street_data: Path, undrawn: None) -> Frozen:  # noqa: ARG001
    """`frozen(name)`: the bundle of that model with its backbone as it was, trained once."""
    return functools.cache(lambda name: trained(name, tmp_path_factory.mktemp(name), street_data))


@pytest.fixture(scope="module", params=TAPS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, frozen: Frozen) -> Made:
    bundle, out = frozen(request.param), tmp_path_factory.mktemp("export") / "out"
    return Made(request.param, bundle, export(bundle, "fp16", out, engine="none", imgsz=SIZE))


def test_the_graph_answers_as_the_unfolded_model(made: Made) -> None:
    errors = {parity.graph: parity.max_error for parity in made.result.report.parity}
    assert made.bundle.record.backbone.family == CONFIGS[made.name][0]
    assert str(made.bundle.record.taps[0]) == TAPS[made.name]
    assert made.result.rung == "fp16"
    assert errors["fp32"] <= 1e-4
    assert 0 < errors["fp16"] < 2e-2


def test_the_graph_is_plain_and_ends_in_the_block_of_its_tap(made: Made) -> None:
    block = int(TAPS[made.name].split(".")[0])
    for name in ("model.onnx", "model.fp32.onnx"):
        model = made.graph(name)
        onnx.checker.check_model(model, full_check=True)
        found = operations(model)
        assert not FORBIDDEN & set(found), name
        places = {node.name.split(".")[0] for node in model.graph.node if node.op_type != "Cast"}
        blocks = {f"block{i}" for i in range(block + 1)}
        assert places <= {"frames", "encoder", "embed", "backbone", "head", "answer", *blocks}
        assert not [w.name for w in model.graph.initializer if "val_" in w.name]
        assert not {"Sin", "Cos", "Gather", "GatherND", "ScatterND"} & set(found), "RoPE is tables"
    if TAPS[made.name].endswith("query"):
        weights = {w.name for w in made.graph("model.fp32.onnx").graph.initializer if len(w.dims) > 1}
        assert {w for w in weights if w.startswith(f"block{block}.")} == {f"block{block}.attention.query.weight"}


def test_all_that_is_left_of_the_prompt_is_constants_of_its_valid_tokens(made: Made) -> None:
    shapes = {w.name: tuple(w.dims) for w in made.graph("model.fp32.onnx").graph.initializer}
    assert not [name for name in shapes if "caption" in name or "txt" in name]
    own = ("block0.cross.query", "block0.cross.output")
    constants = {
        name: math.prod(shape)
        for name, shape in shapes.items()
        if name.startswith(("block0.text.", "block0.cross")) and not name.startswith(own) and math.prod(shape) > 1
    }
    # A key and a value of the width for each token; where Sana has one token, its answer is in a bias.
    assert sum(constants.values()) == (0 if made.name == "sana" else 2 * 24 * VALID[made.name])
    assert bool([name for name in shapes if "cross" in name]) == (made.name == "sana-1.5")


def elements(model: ModelProto) -> dict[str, tuple[str, int]]:
    """Operation and number of elements of every tensor that a node makes."""
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        value.name: (makers[value.name], math.prod(d.dim_value for d in value.type.tensor_type.shape.dim))
        for value in (*inferred.value_info, *inferred.output)
        if value.name in makers
    }


@pytest.mark.parametrize("name", ["sana", "prx-dc"])
def test_linear_attention_has_no_product_of_tokens_by_tokens(name: str, tmp_path: Path, frozen: Frozen) -> None:
    """Four times the pixels are four times the numbers in every product: sixteen times would be tokens by tokens.

    PRX's own attention is of tokens by tokens, which shows that this test can fail; its autoencoder's is not.
    """
    bundle = frozen(name)
    small, large = (
        {
            tensor: count
            for tensor, (kind, count) in elements(trace(bundle.deployed(size), "seg", 1, size, tmp_path).model).items()
            if kind in ("MatMul", "Softmax")
        }
        for size in ((32, 64), (64, 128))
    )
    assert small.keys() == large.keys()
    growth = {tensor: large[tensor] / small[tensor] for tensor in small}
    quadratic = {tensor for tensor, factor in growth.items() if factor > 4}
    assert any(factor == 1 for factor in growth.values()), "keys times values, d x d whatever the size"
    if name == "sana":
        assert not quadratic
    else:
        assert quadratic
        assert all(tensor.startswith("block") for tensor in quadratic)


def test_sums_over_all_tokens_and_of_squares_are_never_in_half_precision(made: Made) -> None:
    """q·(kᵀ·v) / (q·sum of k + eps): the sums grow with the input, and in FP16 eps is zero, so that the answer of a
    query without a positive channel would be 0/0."""
    model = made.graph("model.onnx")
    infos = onnx.shape_inference.infer_shapes(model).graph.value_info
    kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
    sums = [node for node in model.graph.node if node.op_type == "ReduceSum"]
    where = {node.name.rpartition(".")[0] for node in sums}
    assert any(place.startswith("block") for place in where) == made.name.startswith("sana")
    assert any(place.startswith("encoder") for place in where) == (made.name != "prx")
    inner = [
        node
        for node in model.graph.node
        if node.name.rpartition(".")[0] in where and node.op_type in ("MatMul", "Div", "ReduceSum")
    ]
    assert {node.op_type for node in inner} == ({"MatMul", "Div", "ReduceSum"} if sums else set())
    assert {kinds[node.output[0]] for node in inner} <= {TensorProto.FLOAT}
    roots = [node for node in model.graph.node if node.op_type == "Sqrt"]
    assert all(kinds[name] == TensorProto.FLOAT for root in roots for name in (root.input[0], root.output[0]))


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("name", ["model.onnx", "model.fp32.onnx"])
def test_tensorrt_builds_it(made: Made, name: str, tmp_path: Path) -> None:
    build_engine(made.result.folder / name, tmp_path / "rtx.engine", "sm86", "rtx")
    assert (tmp_path / "rtx.engine").stat().st_size > 10_000


def test_it_runs_on_frames_and_in_int8(
    made: Made, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = street_data / "val" / "images"
    out = tmp_path / "int8"
    result = export(made.bundle, "int8", out, engine="none", imgsz=SIZE, data=frames, int8=Int8Settings(images=3))
    assert result.manifest.precision == "int8"
    found = result.report.quantisation
    assert found is not None
    mlp = {"block0.mlp.in", "block0.mlp.out"} | ({"block0.mlp.depthwise"} if made.name.startswith("sana") else set())
    assert {layer.layer for layer in found.layers} >= {"block0.attention.qkv", *mlp}
    for folder in (made.result.folder, out):
        lines = tmp_path / f"{folder.name}.jsonl"
        assert command(run, monkeypatch, str(folder), str(frames), "--output", str(lines), "--device", "cpu") == 0
        answers = [json.loads(line)["areas"] for line in lines.read_text().splitlines()]
        assert len(answers) == len(list(frames.iterdir()))
        assert all(np.isclose(sum(areas.values()), 1, atol=1e-3) for areas in answers)
    assert Manifest.load(out / "manifest.json").taps == made.bundle.record.taps


@pytest.mark.parametrize("name", ["prx", "sana"])
def test_it_is_fine_tuned_by_the_tasks_loss_alone(name: str, tmp_path: Path, street_data: Path, frozen: Frozen) -> None:
    told: list[str] = []
    with heard(told.append):
        bundle = trained(name, tmp_path, street_data, finetune=True)
    assert any("so it is fine-tuned only with the task's loss" in line for line in told)
    assert bundle.record.backbone.file is not None
    learnt, before = (b.backbone().model.state_dict() for b in (bundle, frozen(name)))
    assert learnt.keys() <= before.keys()
    assert any((learnt[n] - before[n]).abs().max() > 1e-3 for n in learnt if "blocks.0" in n)
    pixels = torch.rand(1, 3, *bundle.record.imgsz) * 255
    with torch.no_grad():
        expected = bundle.reference()(pixels)
        assert (bundle.deployed()(pixels) - expected).abs().max() / expected.abs().max() < 1e-4
