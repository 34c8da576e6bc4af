"""The authors' files all the way: selected, trained, exported in FP16 and INT8, built, and run on frames."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL
from onnx import ModelProto, TensorProto

from aselect_calibration.settings import Int8Settings
from aselect_edge import api
from aselect_edge.bundle import LoadedBundle, load_bundle
from aselect_export.exporting import ExportResult, export
from aselect_runtime.commands.run import run
from aselect_runtime.engines import build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.records import Manifest
from tests.bundles import command
from tests.edge import test_encoders
from tests.edge.checkpoints import references
from tests.edge.checkpoints.making import repa_e, self_flow
from tests.edge.checkpoints.references import State
from tests.edge.checkpoints.test_autoencoders import autoencoder, original
from tests.edge.rotary_reference import KINDS, save
from tests.export.test_graph import FORBIDDEN, operations
from tests.log_lines import heard

SIZE = (32, 48)
TAPS = {
    "jit": "5.query",
    "lightningdit": "2.query",
    "lightningdit-layernorm": "2.mlp",
    "sit-qknorm": "2.query",
    "sit-repa-e": "1.mlp",
    "sit-self-flow": "2.query",
}
"""JiT's is after its context tokens entered, in block 4."""
SIT: dict[str, Callable[[State], State]] = {
    "sit-qknorm": references.with_qk_norm,
    "sit-repa-e": repa_e,
    "sit-self-flow": lambda state: self_flow(references.with_qk_norm(state)),
}
"""Of SiT's layout, by what each does to a plain file."""


Frozen = Callable[[str], LoadedBundle]


@dataclass(frozen=True)
class Made:
    """A small model with random weights, from the authors' file to the exported folder."""

    name: str
    bundle: LoadedBundle
    result: ExportResult

    def graph(self, name: str) -> ModelProto:
        return onnx.load(self.result.folder / name)


def source(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The file, and what has to be said of it; its autoencoder is in it or beside it."""
    channels = references.CHANNELS if name in SIT else KINDS[name].channels
    torch.manual_seed(0)
    vae: Any = test_encoders.random(
        AutoencoderKL(**test_encoders.KL | {"latent_channels": channels, "norm_num_groups": 4})
    )
    if name in SIT:
        state = SIT[name](references.dit_state(learned_sigma=False))
        path = folder / "last.pt"
        inside = {"vae": original(autoencoder())} if name == "sit-repa-e" else {}
        torch.save({"ema": state, "args": Namespace(path_type="linear", model="SiT"), **inside}, path)
        options: dict[str, Any] = {"num_heads": references.HEADS}
        if inside:
            return str(path), options
    else:
        path, options = Path(save(folder, KINDS[name])), {}
        if KINDS[name].bottleneck:
            return str(path), options
    vae.save_pretrained(folder / "vae")
    return str(path), {**options, "vae": str(folder / "vae")}


def trained(name: str, folder: Path, data: Path, finetune: bool = False) -> LoadedBundle:
    """The bundle of the file `name` in `folder`: its noise selected, its head trained on a few scenes."""
    path, options = source(name, folder)
    options |= {"imgsz": (32, 32)}
    choice = api.select(path, data, strategy="hfr", timesteps=(50, 400), images=2, **options)
    out = folder / ("finetuned" if finetune else "frozen")
    api.train(
        path,
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


def test_the_bundle_says_what_it_was_made_of(made: Made) -> None:
    source = made.bundle.record.backbone
    assert source.family == made.name.split("-")[0]
    schedules = {"jit": {"noise_scale": 8 / 256}, "sit": {"time": "sigma", "path": "linear"}}
    assert source.schedule == schedules.get(source.family, {})
    assert str(made.bundle.record.taps[0]) == TAPS[made.name]


def test_the_graph_answers_as_the_unfolded_model(made: Made) -> None:
    errors = {parity.graph: parity.max_error for parity in made.result.report.parity}
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
        assert places <= {
            "frames",
            "encoder",
            "embed",
            "backbone",
            "head",
            "answer",
            *(f"block{i}" for i in range(block + 1)),
        }
        assert not [w.name for w in model.graph.initializer if "val_" in w.name]
        assert not {"Sin", "Cos", "Gather", "GatherND", "ScatterND"} & set(found), "RoPE is tables"
    weights = {w.name: tuple(w.dims) for w in made.graph("model.fp32.onnx").graph.initializer if len(w.dims) > 1}
    if TAPS[made.name].endswith("query"):
        last = {name: shape for name, shape in weights.items() if name.startswith(f"block{block}.")}
        assert set(last) == {f"block{block}.attention.query.weight"}
    if made.name == "jit":
        assert weights["embed.conv.weight"] == (16, 3, 2, 2), "two layers of the embedding are one convolution"
        assert not any("conv" in name and "block" in name for name in weights)


def test_what_a_norm_adds_up_is_never_in_half_precision(made: Made) -> None:
    """x / sqrt(mean(x²) + eps): a square leaves FP16's range from 256 on, and eps is below its normal numbers."""
    graph = made.graph("model.onnx").graph
    kinds = {
        info.name: info.type.tensor_type.elem_type
        for info in onnx.shape_inference.infer_shapes(made.graph("model.onnx")).graph.value_info
    }
    makers = {output: node for node in graph.node for output in node.output}
    roots = [node for node in graph.node if node.op_type == "Sqrt"]
    assert bool(roots) == (made.name in ("jit", "lightningdit")), "of the others' norms each is one node"
    for root in roots:
        inner, seen = [root.input[0], root.output[0]], set[str]()
        while inner:
            name = inner.pop()
            seen.add(makers[name].op_type)
            assert kinds[name] == TensorProto.FLOAT, name
            if makers[name].op_type not in ("Mul", "Pow"):
                inner += [source for source in makers[name].input if source in makers]
        assert seen & {"Mul", "Pow"}
        assert "ReduceMean" in seen


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
    assert {layer.layer for layer in found.layers} >= {"block0.attention.qkv", "block1.mlp.in", "block1.mlp.out"}
    for folder in (made.result.folder, out):
        lines = tmp_path / f"{folder.name}.jsonl"
        assert command(run, monkeypatch, str(folder), str(frames), "--output", str(lines), "--device", "cpu") == 0
        answers = [json.loads(line)["areas"] for line in lines.read_text().splitlines()]
        assert len(answers) == len(list(frames.iterdir()))
        assert all(np.isclose(sum(areas.values()), 1, atol=1e-3) for areas in answers)
    assert Manifest.load(out / "manifest.json").taps == made.bundle.record.taps


@pytest.mark.parametrize("name", TAPS)
def test_it_is_fine_tuned_by_the_tasks_loss_alone(name: str, tmp_path: Path, street_data: Path, frozen: Frozen) -> None:
    told: list[str] = []
    with heard(told.append):
        bundle = trained(name, tmp_path, street_data, finetune=True)
    assert any("so it is fine-tuned only with the task's loss" in line for line in told) == (name not in SIT)
    assert bundle.record.backbone.file is not None
    learnt, before = (b.backbone().model.state_dict() for b in (bundle, frozen(name)))
    assert learnt.keys() <= before.keys()
    assert any((learnt[n] - before[n]).abs().max() > 1e-3 for n in learnt if "blocks.0" in n)
    pixels = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        expected = bundle.reference()(pixels)
        assert (bundle.deployed()(pixels) - expected).abs().max() / expected.abs().max() < 1e-4
