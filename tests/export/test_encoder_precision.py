"""The autoencoder goes through FP16 and INT8 like the blocks: measured, quantised and held to the same check."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aselect_calibration import Int8Weights, calibrate, calibration_frames, find_layers, prepare, quantised
from aselect_calibration.ranges import Ranges
from aselect_calibration.settings import Int8Settings
from aselect_calibration.weights import WeightFile
from aselect_export import schemes
from aselect_export.activations import record_spans
from aselect_export.exporting import export
from aselect_export.graph import trace_module
from aselect_export.precision import convert, fp16
from aselect_runtime.processor import processor
from aselect_runtime.records import Resize
from aselect_runtime.sessions.openvino import OpenVinoSession
from aselect_runtime.sessions.session import Session
from tests.edge.taesd import load_taesd
from tests.export.test_families import bundle_of

SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(schemes, "cache_folder", lambda _: folder)
        yield


def test_every_product_of_an_autoencoder_kl_is_calibrated_and_int8_or_given_back(
    street_data: Path, tmp_path: Path
) -> None:
    bundle = bundle_of("dit", tmp_path)
    encoder = bundle.deployed().encoder
    products = {f"encoder.{name}" for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    settings = Int8Settings(images=4, max_drop=0.05)
    result = export(bundle, "int8", tmp_path / "out", data=street_data / "train/images", int8=settings, engine="none")
    ranges = Ranges.load(result.folder / "ranges.json")
    measured = {name for name in ranges.layers if name.startswith("encoder")}
    assert measured == products
    assert len(measured) >= 10
    found = result.report.quantisation
    assert found is not None
    assert found.metric == "agreement"
    assert found.fp32 - found.int8 <= 0.05
    taken = {one.layer for one in found.layers if one.int8 and one.layer.startswith("encoder")}
    assert taken
    model = onnx.load(result.folder / "model.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    dequantised = {
        node.name.removesuffix(f".{node.op_type}")
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul") and makers[node.input[0]].op_type == "DequantizeLinear"
    }
    assert {name for name in dequantised if name.startswith("encoder")} == taken
    half = onnx.load(result.folder / "model.fp16.onnx")
    stored = {weight.name: weight.data_type for weight in half.graph.initializer}
    kinds = Counter(
        stored[node.input[1]]
        for node in half.graph.node
        if node.name.startswith("encoder") and node.op_type in ("Conv", "MatMul") and node.input[1] in stored
    )
    assert set(kinds) == {onnx.TensorProto.FLOAT16}


class _Framed(nn.Module):
    """An encoder whose input is camera frames."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        latents: Tensor = self.encoder(frames.to(torch.float32).permute(0, 3, 1, 2))
        return latents


def test_a_published_tiny_autoencoder_keeps_its_latents_in_fp16_and_int8(tmp_path: Path) -> None:
    data = Path(os.environ.get("ASELECT_DATA", "none"))
    file = data / "taesd" / "taef2_encoder.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    module = _Framed(load_taesd(file)).eval().requires_grad_(False)
    graph = trace_module(module, torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8), "frames", ["latents"], tmp_path)
    frames = calibration_frames(data / "camvid", 16, (SIDE, SIDE), Resize())
    pixels = np.stack(list(frames))
    exact = module(torch.from_numpy(pixels)).numpy()

    def noise(session: Session) -> float:
        """Power of the latents' error over that of the latents."""
        with closing(session):
            got = np.concatenate([session.infer(frame[None])["latents"] for frame in pixels])
        return float(((got - exact) ** 2).sum() / ((exact - exact.mean()) ** 2).sum())

    assert noise(graph.session()) < 1e-9
    if processor().bf16 is not None and find_spec("openvino") is not None:
        with graph.saved() as path:
            assert 1e-7 < noise(OpenVinoSession(path, bf16=True)) < 1e-3, "its relative steps are 2 ** -8"
    plan = fp16(graph.model, record_spans(graph, (frame[None] for frame in pixels)))
    assert noise(convert(graph, plan.half, "half.weights").session()) < 1e-4
    weights = WeightFile(tmp_path, "int8.weights")
    layers = find_layers(graph, "latents")
    # All convolutions but the last one, whose output is the latents.
    assert len(layers) == sum(isinstance(part, nn.Conv2d) for part in module.modules()) - 1
    ready = prepare(graph, layers, calibrate(graph, layers, frames, "mse", weights), weights)
    int8 = quantised(ready.graph, layers, ready.ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=True)
    assert noise(graph.session()) < noise(int8.session()) < 0.1
