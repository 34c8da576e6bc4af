"""INT8 end to end: what the graphs are made of, what runs them, and what happens when it cannot be done."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from aselect_calibration.calibrating import calibrate, prepare
from aselect_calibration.frames import calibration_frames
from aselect_calibration.insertion import Int8Weights, quantised
from aselect_calibration.layers import find_layers
from aselect_calibration.observing import histograms
from aselect_calibration.ranges import Ranges
from aselect_calibration.settings import Int8Settings
from aselect_calibration.weights import Graph, WeightFile
from aselect_edge.bundle import load_bundle
from aselect_export import evaluate, schemes
from aselect_export.exporting import ExportResult, export, open_bundle
from aselect_export.graph import LOGITS, trace
from aselect_export.ladder import Candidate
from aselect_export.quantising import latency_notes
from aselect_export.ranges import keep_ranges
from aselect_export.verify import Verdict
from aselect_runtime import open_model
from aselect_runtime.engines import build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import GateError, InputError
from aselect_runtime.files import check_files
from aselect_runtime.records import Parity, Report, Resize
from aselect_runtime.scenes import Street
from tests.bundles import SIZE, write_bundle

FEW = Int8Settings(images=4)
LENIENT = Int8Settings(images=4, max_drop=0.2)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(schemes, "cache_folder", lambda _: folder)
        yield


@pytest.fixture(scope="module")
def exported(seg_bundle: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("export") / "seg-int8"
    return export(open_bundle("seg", seg_bundle), "int8", out, data=street_data, int8=LENIENT, engine="none")


@pytest.fixture(scope="module")
def traced(seg_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return trace(load_bundle(seg_bundle).deployed(), "seg", 1, SIZE, tmp_path_factory.mktemp("traced"))


# what comes out


def test_the_folder_holds_every_graph_and_how_int8_was_made(exported: ExportResult) -> None:
    manifest = exported.manifest
    assert manifest.precision == "int8"
    assert manifest.rungs == ("model.fp16.onnx", "model.mixed.onnx", "model.fp32.onnx")
    assert {"ranges.json", "damage.png"} <= set(manifest.files)
    check_files(exported.folder, manifest.files)
    kinds = [open_model(exported.folder / name, "cpu")[0].precision for name in ("model.onnx", *manifest.rungs)]
    assert kinds == ["int8", "fp16", "fp16", "fp32"]
    image = cv2.imread(str(exported.folder / "damage.png"))
    assert image is not None
    assert image.std() > 10


def test_the_report_lists_every_layer_with_its_damage_and_the_decision(exported: ExportResult) -> None:
    found = Report.load(exported.folder / "report.json").quantisation
    assert found is not None
    assert (found.metric, found.images, found.max_drop) == ("miou", 3, 0.2)
    assert found.fp32 - found.int8 <= found.max_drop
    assert {layer.layer for layer in found.layers} == set(Ranges.load(exported.folder / "ranges.json").layers)
    damage = [layer.damage for layer in found.layers]
    assert damage == sorted(damage, reverse=True)
    assert damage[0] > 0


def test_only_products_are_int8_and_everything_is_symmetric(exported: ExportResult) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = onnx.numpy_helper.to_array(weights[node.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type in ("LayerNormalization", "Softmax", "Gelu"):
            assert makers[node.input[0]].op_type != "DequantizeLinear"
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
    int8 = [node for node in products if makers[node.input[0]].op_type == "DequantizeLinear"]
    for node in int8:
        levels = weights[makers[node.input[1]].input[0]]
        assert levels.data_type == TensorProto.INT8
        assert np.prod(weights[makers[node.input[1]].input[1]].dims) in levels.dims, "one scale per output"
    # 2 blocks of 4 linears, the query of the third, the embedding, the head but its last layer; not the 4 inner ones.
    assert {node.name for node in products} - {node.name for node in int8} >= {
        "block0.attention.scores.MatMul",
        "block0.attention.mix.MatMul",
    }
    assert len(int8) == len(Ranges.load(exported.folder / "ranges.json").layers)


def test_onnx_runtime_computes_it_with_int8_kernels(exported: ExportResult, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", options, ["CPUExecutionProvider"])
    session.run(None, {"frames": np.zeros((1, *SIZE, 3), np.uint8)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time"))
    layers = Ranges.load(exported.folder / "ranges.json").layers
    convolutions = sum(known.output is not None for known in layers.values())
    assert ran["QLinearConv"] == convolutions > 0
    assert ran["MatMulIntegerToFloat"] + ran["QLinearMatMul"] == len(layers) - convolutions
    assert ran["Conv"] + ran["FusedConv"] == 1, "the head's last layer"
    assert not ran["Gemm"]


def test_aselect_eval_finds_what_the_gate_measured(exported: ExportResult, street_data: Path) -> None:
    assert exported.report.quantisation is not None
    found = evaluate(exported.folder, street_data, "val", device="cpu")
    # Without VNNI, ONNX Runtime's INT8 kernels round a little differently once the logits are no output any more.
    exact = re.search(r"\b(avx512_vnni|avx_vnni|asimddp)\b", Path("/proc/cpuinfo").read_text())
    assert found.score == pytest.approx(exported.report.quantisation.int8, abs=1e-9 if exact else 2e-3)


@pytest.mark.parametrize(("fp32_ms", "told"), [(5.0, "slower than fp32 .* use the precision fp32"), (50.0, None)])
def test_the_report_says_when_int8_is_slower(tmp_path: Path, fp32_ms: float, told: str | None) -> None:
    graph = Graph(onnx.ModelProto(), tmp_path)
    parity = Parity(graph="fp32", reference="torch", frames=1, max_error=0, agreement=1, passed=True)
    int8 = Candidate(graph, Verdict("int8", (parity,), 0.0, 10.0, 1))
    fp32 = Candidate(graph, Verdict("fp32", (parity,), 0.0, fp32_ms, 1))
    notes = " ".join(latency_notes(int8, [fp32], "fp32"))
    assert bool(re.search(told or "slower", notes)) == bool(told)
    assert "compare the rungs on the target" in " ".join(latency_notes(int8, [fp32], "fp16"))


def test_its_answers_are_close_to_the_fp32_graph(exported: ExportResult) -> None:
    with np.load(exported.folder / "verify.npz") as arrays:
        frames, expected = arrays["frames"], arrays["class_map"]
    _, session = open_model(exported.folder, "cpu")
    got = np.concatenate([session.infer(frame[None])["class_map"] for frame in frames])
    assert len(np.unique(expected)) >= 3
    assert (got == expected).mean() > 0.93
    assert (exported.folder / "model.onnx").stat().st_size < 0.6 * exported.report.size["model.fp32.onnx"]


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
def test_tensorrt_builds_an_engine_of_it(exported: ExportResult, tmp_path: Path) -> None:
    built = build_engine(exported.folder / "model.onnx", tmp_path / "cpu.engine", "sm86", "rtx")
    assert (tmp_path / "cpu.engine").stat().st_size > 10_000
    assert built.onnx_sha256 == exported.manifest.files["model.onnx"]


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
def test_with_an_engine_the_rest_is_fp16(seg_bundle: Path, street_data: Path, tmp_path: Path) -> None:
    bundle, out = open_bundle("seg", seg_bundle), tmp_path / "out"
    result = export(bundle, "int8", out, data=street_data, int8=LENIENT, targets=("sm86",), ladder=False)
    (engine,) = result.manifest.engines
    assert (out / engine.file).stat().st_size > 10_000
    assert result.manifest.rungs == ()
    model = onnx.load(out / "model.onnx")
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = Counter(weight.data_type for weight in model.graph.initializer if weight.name in scales)
    assert kinds[TensorProto.FLOAT16] > 0
    assert result.report.quantisation is not None
    # One for the input of each layer and none for outputs: TensorRT fuses more without.
    operations = Counter(node.op_type for node in model.graph.node)
    assert operations["QuantizeLinear"] <= len(result.report.quantisation.layers)


@pytest.mark.parametrize("swapped", [False, True])
def test_masks_of_other_classes_are_said_not_to_be_measured_on(
    seg_bundle: Path, street_data: Path, tmp_path: Path, swapped: bool
) -> None:
    data = shutil.copytree(street_data, tmp_path / "data")
    listed = json.loads((data / "classes.json").read_text())
    names = [each["name"] for each in listed["classes"]]
    for each, name in zip(listed["classes"], reversed(names) if swapped else names, strict=True):
        each["name"] = name
    (data / "classes.json").write_text(json.dumps(listed))
    bundle = open_bundle("seg", seg_bundle)
    result = export(bundle, "int8", tmp_path / "out", data=data, int8=LENIENT, engine="none", ladder=False)
    assert result.report.quantisation is not None
    assert result.report.quantisation.metric == ("agreement" if swapped else "miou")
    assert any("other classes than the model" in note for note in result.report.notes) == swapped


# smoothing


def test_smoothing_changes_no_answer_and_evens_out_massive_activations(traced: Graph, street_data: Path) -> None:
    graph = traced.copy()
    boost(graph, "block0.attention", 100.0)
    errors = {}
    frames = calibration_frames(street_data, 4, SIZE, Resize())
    batch = next(iter(frames))[None]
    exact = graph.session().infer(batch, [LOGITS])[LOGITS]
    for smooth in (False, True):
        weights = WeightFile(graph.folder, f"int8-{smooth}.weights")
        layers = find_layers(graph, LOGITS)
        ranges = calibrate(graph, layers, frames, "minmax", weights)
        if not smooth:
            ranges = ranges.model_copy(update={"smoothing": {}})
            seen = histograms(graph, [layer.input for layer in layers], frames)
            ranges = ranges.model_copy(
                update={
                    "layers": {
                        layer.name: ranges.layers[layer.name].model_copy(update={"input": seen[layer.input].largest})
                        for layer in layers
                    }
                }
            )
        ready = prepare(graph, layers, ranges, weights)
        same = ready.graph.session().infer(batch, [LOGITS])[LOGITS]
        np.testing.assert_allclose(same, exact, atol=1e-4 * np.abs(exact).max())
        first = [layer for layer in layers if layer.name.startswith("block0.attention.qkv")]
        int8 = quantised(ready.graph, first, ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=True)
        errors[smooth] = float(((int8.session().infer(batch, [LOGITS])[LOGITS] - exact) ** 2).mean())
    assert errors[True] < errors[False] / 20


def boost(graph: Graph, component: str, factor: float) -> None:
    """Make every eighth channel of a norm's output larger, and the weights that read it smaller by as much."""
    model = graph.model.graph
    stored = {weight.name: weight for weight in model.initializer}
    (norm,) = (node for node in model.node if node.name == f"{component}.norm.LayerNormalization")
    factors = np.ones(stored[norm.input[1]].dims[0], np.float32)
    factors[::8] = factor
    scale = onnx.numpy_helper.from_array(graph.array(stored[norm.input[1]]) * factors, "boosted.scale")
    (product,) = (node for node in model.node if norm.output[0] in node.input)
    weight = onnx.numpy_helper.from_array(graph.array(stored[product.input[1]]) / factors[:, None], "boosted.weight")
    norm.input[1], product.input[1] = scale.name, weight.name
    model.initializer.extend([scale, weight])


def test_layers_that_share_a_weight_keep_their_own_smoothing_and_scales(traced: Graph, street_data: Path) -> None:
    """The exporter stores equal weights once: those of tied blocks, or the zeros of blocks that do nothing yet."""
    shared = traced.copy()
    nodes = {node.name: node for node in shared.model.graph.node}
    for part in ("mlp.in", "mlp.out"):
        nodes[f"block1.{part}.MatMul"].input[1] = nodes[f"block0.{part}.MatMul"].input[1]
    stored = {weight.name: weight for weight in shared.model.graph.initializer}
    for block in (0, 1):  # each block has outliers in channels of its own
        norm = nodes[f"block{block}.mlp.norm.LayerNormalization"]
        scale = shared.array(stored[norm.input[1]]).copy()
        scale[block::8] *= 50
        shared.model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"own.scale.{block}"))
        norm.input[1] = f"own.scale.{block}"
    weights = WeightFile(shared.folder, "shared.weights")
    layers = find_layers(shared, LOGITS)
    ranges = calibrate(shared, layers, calibration_frames(street_data, 4, SIZE, Resize()), "minmax", weights)
    assert {"block0.mlp.norm.LayerNormalization", "block1.mlp.norm.LayerNormalization"} <= set(ranges.smoothing)
    ready = prepare(shared, layers, ranges, weights)
    frames = Street(7, *SIZE).frame(40)[0][None]
    exact, smooth = (graph.session().infer(frames, [LOGITS])[LOGITS] for graph in (shared, ready.graph))
    assert np.abs(smooth - exact).max() < 1e-4 * np.abs(exact).max()
    int8 = Int8Weights(ready.graph, weights)
    made = quantised(ready.graph, layers, ranges.layers, int8, weights, outputs=True).check()
    error = made.session().infer(frames, [LOGITS])[LOGITS] - exact
    assert np.linalg.norm(error) < 0.2 * np.linalg.norm(exact - exact.mean())
    names = [node.name for node in made.model.graph.node]
    assert len(set(names)) == len(names)


# what cannot be done


def test_without_data_the_ranges_of_the_bundle_serve(seg_bundle: Path, street_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in seg_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"ranges\.json: no such file, and no data"):
        export(open_bundle("seg", folder), "int8", tmp_path / "out", int8=LENIENT, engine="none")
    keep_ranges(folder, street_data, FEW)
    result = export(open_bundle("seg", folder), "int8", tmp_path / "out", int8=LENIENT, engine="none", ladder=False)
    assert result.report.quantisation is not None
    assert result.report.quantisation.metric == "agreement"
    assert any("ranges stored in the bundle, measured at 48x64;" in note for note in result.report.notes)
    other = Int8Settings(images=4, max_drop=0.2, method="entropy")
    with pytest.raises(InputError, match=r"got the method entropy and no data, .* were found by mse"):
        export(open_bundle("seg", folder), "int8", tmp_path / "out", int8=other, engine="none")


def test_fewer_images_than_asked_for_are_enough_and_the_report_says_so(seg_bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "images"
    data.mkdir()
    for seed in range(17):
        cv2.imwrite(str(data / f"{seed:02d}.png"), Street(seed, *SIZE).frame(40)[0])
    asked = Int8Settings(images=128, max_drop=0.2)
    settings = {"batch": 2, "data": data, "int8": asked, "engine": "none", "ladder": False}
    result = export(open_bundle("seg", seg_bundle), "int8", tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert f"int8: {data}: got 17 images, 128 requested; calibrated on 16" in result.report.notes
    made = result.report.quantisation
    assert made is not None
    assert made.calibrated_on is not None
    assert made.calibrated_on.images == 16


def test_ranges_of_another_graph_are_refused(traced: Graph, street_data: Path) -> None:
    weights = WeightFile(traced.folder, "other.weights")
    layers = find_layers(traced, LOGITS)
    ranges = calibrate(traced, layers, calibration_frames(street_data, 2, SIZE, Resize()), "minmax", weights)
    with pytest.raises(InputError, match="differ from the graph in 1 layers"):
        prepare(traced, layers[1:], ranges, weights)


def test_a_gate_that_is_missed_leaves_nothing_behind(seg_bundle: Path, street_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = Int8Settings(images=2, max_drop=0.0)
    with pytest.raises(GateError, match=r"the best result loses .* of agreement .* layers in higher precision"):
        export(open_bundle("seg", seg_bundle), "int8", out, data=street_data / "train", int8=settings, engine="none")
    assert not out.exists()


def test_layers_are_returned_until_the_drop_is_allowed(seg_bundle: Path, street_data: Path, tmp_path: Path) -> None:
    settings = Int8Settings(images=4, max_drop=0.004)
    data = street_data / "train/images"
    result = export(open_bundle("seg", seg_bundle), "int8", tmp_path / "out", data=data, int8=settings, engine="none")
    found = result.report.quantisation
    assert found is not None
    assert found.metric == "agreement"
    decisions = [layer.int8 for layer in found.layers]
    assert True in decisions
    assert False in decisions
    assert decisions == sorted(decisions), "the worst come first and are the ones given back"
    assert 1 - found.int8 <= 0.004


@pytest.mark.parametrize("fault", ["nan", "shape", "short", "none"])
def test_frames_that_do_not_fit_raise(traced: Graph, fault: str) -> None:
    class Faulty:
        def __len__(self) -> int:
            return 0 if fault == "none" else 3

        def __iter__(self):  # type: ignore[no-untyped-def]
            for _ in range(2 if fault == "short" else 3):
                yield np.zeros((8, 8, 3) if fault == "shape" else (*SIZE, 3), np.uint8)

    if fault == "nan":
        traced = traced.copy()
        weight = next(weight for weight in traced.model.graph.initializer if weight.name == "block0.attention.qkv.bias")
        spoilt = onnx.numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name)
        traced.model.graph.initializer.remove(weight)
        traced.model.graph.initializer.append(spoilt)
    match = {
        "nan": "got NaN or infinity on calibration frame 1",
        "shape": r"frame 0: got uint8 \[8, 8, 3\], expected uint8 \[48, 64, 3\]",
        "short": "got 2 calibration frames, expected 3",
        "none": "got 0 calibration frames, expected a positive multiple",
    }[fault]
    names = [layer.input for layer in find_layers(traced, LOGITS)]
    with pytest.raises(InputError, match=match):
        histograms(traced, names, Faulty())


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"method": "guess"}, "calib"),
        ({"rest": "bf16"}, "rest"),
        ({"images": 0}, "calib_images"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"max_drop": -0.1}, "max_drop"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], parameter: str) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        Int8Settings(**settings)  # type: ignore[arg-type]
    assert caught.value.parameters == (parameter,)


def test_classification_is_measured_by_top1(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = open_bundle("cls", write_bundle(tmp_path / "cls", "cls"))
    names = [info.name for info in bundle.record.classes][:2]
    for split in ("train", "val"):
        for index, name in enumerate(names):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for turn in range(3):
                image = np.random.default_rng(10 * index + turn).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{turn}.png"), image)
    settings = Int8Settings(images=4, max_drop=0.5)
    result = export(bundle, "int8", tmp_path / "out", data=tmp_path / "data", int8=settings, engine="none", batch=2)
    assert result.report.quantisation is not None
    assert (result.report.quantisation.metric, result.report.quantisation.images) == ("top1", 6)
