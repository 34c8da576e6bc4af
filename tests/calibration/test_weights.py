"""Weights on disk: what is streamed is what protobuf would write, what lies beside a graph cannot lead elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from aselect_calibration import weights
from aselect_calibration.weights import INLINE, Graph, WeightFile
from aselect_export.exporting import export, open_bundle
from aselect_runtime import open_model
from aselect_runtime.errors import IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.records import Manifest

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8)


def sums(folder: Path, sizes: list[int]) -> Graph:
    """A graph that adds up constants of these sizes; those of INLINE bytes and more lie in a file."""
    file = WeightFile(folder, "all.weights")
    rng = np.random.default_rng(0)
    constants = [file.put(f"w{i}", rng.standard_normal(size).astype(np.float32)) for i, size in enumerate(sizes)]
    nodes = [helper.make_node("ReduceSumSquare", [f"w{i}"], [f"s{i}"], keepdims=0) for i in range(len(sizes))]
    nodes.append(helper.make_node("Sum", [f"s{i}" for i in range(len(sizes))], ["sum"]))
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "sums", [], [output], constants)
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.sampled_from([1, 31, INLINE // 4 - 1, INLINE // 4, 5000, 70_000]), min_size=1, max_size=5))
def test_a_streamed_file_is_what_protobuf_reads(sizes: list[int], tmp_path: Path) -> None:
    (tmp_path / "all.weights").unlink(missing_ok=True)
    graph = sums(tmp_path, sizes)
    graph.write(tmp_path / "one.onnx")
    got = onnx.load(tmp_path / "one.onnx")
    onnx.checker.check_model(got, full_check=True)
    assert got.graph.node == graph.model.graph.node
    assert got.opset_import == graph.model.opset_import
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in got.graph.initializer}
    assert list(stored) == [f"w{i}" for i in range(len(sizes))]
    for weight in graph.model.graph.initializer:
        np.testing.assert_array_equal(stored[weight.name], graph.array(weight))
    assert (tmp_path / "one.onnx").stat().st_size == got.ByteSize()


def test_a_weight_that_is_cut_short_is_reported(tmp_path: Path) -> None:
    graph = sums(tmp_path, [5000, 5000])
    (tmp_path / "all.weights").write_bytes((tmp_path / "all.weights").read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="expected 20000"):
        graph.array(graph.model.graph.initializer[1])


@pytest.fixture(scope="module")
def large(seg_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for which one file is too small."""
    out = tmp_path_factory.mktemp("large") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "SINGLE_FILE", 10_000)
        export(open_bundle("seg", seg_bundle), "fp32", out, engine="none")
    return out


def test_a_large_graph_has_its_weights_beside_it(large: Path) -> None:
    manifest = Manifest.load(large / "manifest.json")
    assert {"model.onnx", "model.onnx.data"} <= set(manifest.files)
    assert (large / "model.onnx").stat().st_size < 100_000 < (large / "model.onnx.data").stat().st_size
    assert {path.name for path in large.iterdir()} == {*manifest.files, "manifest.json"}
    folder, lone = (open_model(path, "cpu")[1].infer(FRAMES)["class_map"] for path in (large, large / "model.onnx"))
    np.testing.assert_array_equal(folder, lone)
    onnx.checker.check_model(large / "model.onnx", full_check=True)


def copied(large: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in large.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_weights_that_were_changed_are_refused(large: Path, tmp_path: Path) -> None:
    folder = copied(large, tmp_path / "changed")
    content = bytearray((folder / "model.onnx.data").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx.data").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.onnx\.data: got SHA-256"):
        open_model(folder, "cpu")


@pytest.mark.parametrize("location", ["../model.onnx.data", "{absolute}", "sub/../../model.onnx.data"])
def test_weights_outside_of_the_folder_are_refused(large: Path, tmp_path: Path, location: str) -> None:
    folder = copied(large, tmp_path / "evil")
    outside = tmp_path / "model.onnx.data"
    (folder / "model.onnx.data").rename(outside)
    (folder / "sub").mkdir()
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for weight in model.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = location.format(absolute=outside)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = sha256(folder / "model.onnx")
    del manifest["files"]["model.onnx.data"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in (folder, folder / "model.onnx"):
        with pytest.raises(IntegrityError, match="cannot load it"):
            open_model(path, "cpu")
    stored = next(weight for weight in model.graph.initializer if weight.external_data)
    with pytest.raises(IntegrityError, match="inside the folder"):
        Graph(model, folder).array(stored)


PEAK = """
import sys, tempfile
from pathlib import Path
import onnxruntime, torch
from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.fold import FoldSpec, fold
from aselect_runtime.records import Noise, Tap
from aselect_export.graph import trace_module

def memory(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)

config = DiTConfig(8, 96, in_channels=3, num_layers=6, patch_size=4, sample_size=16, num_embeds_ada_norm=3)
noise, tap = Noise(alpha=0.9, sigma=0.4, model_timestep=50), Tap.parse("5.query")
def folded():
    model = DiT(config, tied=True)
    return fold(model, FoldSpec.of(model, noise, [tap], (16, 16))).eval()

class First(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x):
        return self.model(x)[0]

module = First(folded())
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    graph = trace_module(module, torch.zeros(1, 3, 16, 16), "frames", ["features"], folder)
    graph.write(folder / "model.onnx")
    size = (folder / "model.onnx").stat().st_size / 1024
    traced = memory("VmHWM") - before
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.new_empty(0)
    graph.session().close()
    print(size, traced, memory("VmHWM") - before)
"""


def test_an_export_holds_its_weights_once(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    size, traced, run_too = (float(word) for word in run.stdout.split())
    assert size > 100_000
    # The torch module is there before; protobuf or a copy of the weights would add one size or more.
    assert traced < 0.8 * size
    assert run_too < 1.5 * size
