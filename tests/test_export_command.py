"""Export and evaluation end to end: real bundles with small random weights, real graphs, real sessions."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from aselect_edge.backbones.dit import DiT, DiTConfig
from aselect_edge.bundle import load_bundle, save_bundle
from aselect_edge.errors import GateError, InputError
from aselect_edge.files import check_files
from aselect_edge.frames import resize
from aselect_edge.heads import build_head
from aselect_edge.perception import Perception
from aselect_edge.records import (
    BackboneSource,
    Bundle,
    ClassInfo,
    HeadSpec,
    Manifest,
    Noise,
    Report,
    Resize,
    Selection,
    Tap,
    Task,
)
from aselect_edge.scenes import CLASSES, COLOURS, Street
from aselect_export import cli, evaluate, export, open_bundle
from aselect_export.exporting import ExportResult
from aselect_export.graph import DeployedGraph
from aselect_export.precision import half_tensors
from aselect_export.verify import verification_frames
from aselect_runtime import engine, open_model

SIZE = (48, 64)
DEPTH = 2
Change = Callable[[Perception], None]


def write_bundle(folder: Path, task: Task = "seg", change: Change = lambda _: None) -> Path:
    """A bundle with random weights that answers with several classes; `change` alters the weights before saving."""
    torch.manual_seed(0)
    config = DiTConfig(2, 16, in_channels=3, num_layers=DEPTH + 1, sample_size=8, patch_size=8, num_embeds_ada_norm=4)
    backbone = DiT(config)
    taps = (Tap.parse(f"{DEPTH}.query"),)
    spec = HeadSpec(kind="conv" if task == "seg" else "linear", channels=16)
    head = build_head(spec, task, [config.width], len(CLASSES))
    noise = Noise(alpha=0.99, sigma=0.1, model_timestep=50.0)
    model = Perception(backbone, head, noise, taps, SIZE, 0).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=2.0 / weight[0].numel() ** 0.5 if "head" in name else 0.1)
    change(model)
    record = Bundle(
        task=task,
        classes=tuple(ClassInfo(name=n, colour=c) for n, c in zip(CLASSES, COLOURS, strict=True)),
        imgsz=SIZE,
        resize=Resize(),
        backbone=BackboneSource(family="dit", config=config.to_json(), source="random", file="backbone.safetensors"),
        taps=taps,
        noise=noise,
        head=spec,
    )
    save_bundle(folder, record, Selection(backbone="random", noise=noise, tap=taps[0], strategy="manual"), model)
    return folder


def command(verb: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a console entry point in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["aselect", *arguments])
    with pytest.raises(SystemExit) as ended:
        verb()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "seg")


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    targets = ("sm86",) if engine.available("rtx") else ()
    out = tmp_path_factory.mktemp("export") / "seg-fp16"
    return export(open_bundle("seg", bundle), "fp16", out, targets=targets)


def test_the_folder_is_what_its_manifest_says(exported: ExportResult) -> None:
    manifest = Manifest.load(exported.folder / "manifest.json")
    assert manifest == exported.manifest
    check_files(exported.folder, manifest.files)
    check_files(exported.folder, {built.file: built.sha256 for built in manifest.engines})
    assert manifest.rungs == ("model.mixed.onnx", "model.fp32.onnx")
    assert manifest.input.shape == (1, *SIZE, 3)
    assert [output.name for output in manifest.outputs] == ["class_map", "confidence"]
    named = {*manifest.files, *(built.file for built in manifest.engines), "manifest.json"}
    on_disk = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    assert on_disk == named


def test_every_rung_passed_against_every_reference(exported: ExportResult) -> None:
    report = Report.load(exported.folder / "report.json")
    assert exported.rung == "fp16"
    assert [(p.graph, p.reference.split(",")[0]) for p in report.parity] == [
        ("fp16", "torch float32"),
        ("fp16", "torch float16"),
        ("mixed", "torch float32"),
        ("mixed", "torch float16"),
        ("fp32", "torch float32"),
    ]
    assert all(parity.passed for parity in report.parity)
    assert report.parity[-1].max_error <= 1e-4
    assert report.size["deployed_float32_bytes"] < report.size["backbone_float32_bytes"]


def test_every_graph_that_ships_has_its_latency(exported: ExportResult) -> None:
    timed = {name.split(",")[0]: taken for name, taken in exported.report.latency.items()}
    assert set(timed) == {"model.onnx", *exported.manifest.rungs}
    assert all(taken > 0 for taken in timed.values())


def test_the_report_says_what_was_verified_on(
    exported: ExportResult, bundle: Path, labelled: Path, tmp_path: Path
) -> None:
    assert any("8 synthetic street scenes" in note for note in exported.report.notes)
    result = export(open_bundle("seg", bundle), "fp32", tmp_path / "out", engine="none", data=labelled)
    assert f"verified on 2 images of {labelled}" in result.report.notes
    with np.load(result.folder / "verify.npz") as arrays:
        frames = arrays["frames"]
    images = [cv2.imread(str(path)) for path in sorted((labelled / "test/images").iterdir())]
    expected = [cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) for image in images if image is not None]
    assert len(frames) == 8
    np.testing.assert_array_equal(np.unique(frames, axis=0), np.unique(np.stack(expected), axis=0))


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (16, 4104)])
def test_streets_stand_in_at_any_input_size(size: tuple[int, int]) -> None:
    frames, _ = verification_frames(None, 2, size, Resize())
    assert frames.shape == (2, *size, 3)
    assert (frames[0] != frames[1]).any()


def test_the_backbones_size_counts_its_conditioning_once(exported: ExportResult, bundle: Path) -> None:
    config = DiTConfig.from_json(load_bundle(bundle).record.backbone.config)
    stored, conditioning = DiT(config), DiT(config).conditioning[0]
    copies = config.num_layers - 1
    expected = sum(p.numel() for p in stored.parameters()) - copies * sum(p.numel() for p in conditioning.parameters())
    assert exported.report.size["backbone_float32_bytes"] == 4 * expected


@pytest.mark.skipif(not engine.available("rtx"), reason="tensorrt-rtx is not installed")
def test_the_engine_was_built_from_the_graph_that_ships(exported: ExportResult) -> None:
    (built,) = exported.manifest.engines
    assert built.onnx_sha256 == exported.manifest.files["model.onnx"]
    assert (built.target, built.builder) == ("sm86", "tensorrt-rtx")


def test_the_graph_is_plain(exported: ExportResult) -> None:
    model = onnx.load(exported.folder / "model.fp32.onnx")
    onnx.checker.check_model(model, full_check=True)
    operations = Counter(node.op_type for node in model.graph.node)
    # Two norms per whole block, one in the block that is cut at its query, one in the head.
    assert operations["LayerNormalization"] == 2 * DEPTH + 2
    assert operations["Gelu"] == DEPTH
    assert operations["Softmax"] == DEPTH + 1
    assert not {"Shape", "If", "Loop", "Constant", "Erf", "Pow", "Sin", "ReduceMean"} & set(operations)
    content = (exported.folder / "model.onnx").read_bytes()
    assert b".py" not in content, "the exporter's stack traces name this machine's files"


def test_a_lone_graph_explains_itself(exported: ExportResult) -> None:
    for name in ("model.onnx", *exported.manifest.rungs):
        manifest, session = open_model(exported.folder / name, "cpu")
        assert manifest.classes == exported.manifest.classes
        assert manifest.model == name
        assert manifest.precision == ("fp32" if "fp32" in name else "fp16")
        session.close()


def test_precision_is_in_the_graph(exported: ExportResult) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    half = half_tensors(model)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Conv"):
            assert half.issuperset([*node.input, *node.output]), node.name
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert not half.intersection([*node.input, *node.output]), node.name
    large = [weight for weight in weights.values() if np.prod(weight.dims) > 64 and weight.data_type != 7]
    assert large
    assert all(weight.data_type == TensorProto.FLOAT16 for weight in large)


def test_the_runtime_gives_what_torch_gives_on_frames_of_its_own(exported: ExportResult, bundle: Path) -> None:
    frames = np.stack([Street(seed=9, height=SIZE[0], width=SIZE[1]).frame(77)[0]])
    with torch.no_grad():
        graph = DeployedGraph(load_bundle(bundle).reference(), "seg")
        class_map, confidence, _ = (output.numpy() for output in graph(torch.from_numpy(frames)))
    assert len(np.unique(class_map)) >= 3, "one class everywhere would agree with anything"
    manifest, session = open_model(exported.folder, "cpu")
    got = session.infer(frames)
    assert got["class_map"].dtype == np.uint8
    assert (got["class_map"] == class_map).mean() >= 0.995
    assert np.abs(got["confidence"] - confidence).mean() < 0.01
    assert {output.name: output.shape for output in manifest.outputs} == {k: v.shape for k, v in got.items()}


def test_verification_arrays_load_without_pickle(exported: ExportResult) -> None:
    _, session = open_model(exported.folder / "model.fp32.onnx", "cpu")
    with np.load(exported.folder / "verify.npz", allow_pickle=False) as arrays:
        frames, logits, class_map = arrays["frames"], arrays["logits"], arrays["class_map"]
    assert logits.dtype == np.float32
    assert len(frames) == len(logits) == len(class_map)
    got = np.concatenate([session.infer(frame[None])["class_map"] for frame in frames])
    assert (got == class_map).mean() >= 0.999


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    root = tmp_path_factory.mktemp("classifier")
    bundle = open_bundle("cls", write_bundle(root / "cls", "cls"))
    return export(bundle, "fp32", root / "out", batch=2, imgsz=(8, 40), engine="none")


def test_classification_with_a_batch_and_another_size(classifier: ExportResult) -> None:
    assert classifier.manifest.input.shape == (2, 8, 40, 3)
    assert classifier.manifest.rungs == ()
    (scores,) = classifier.manifest.outputs
    assert (scores.name, scores.shape) == ("scores", (2, len(CLASSES)))
    _, session = open_model(classifier.folder, "cpu")
    got = session.infer(np.zeros((2, 8, 40, 3), np.uint8))["scores"]
    assert got.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


def lift_tokens(model: Perception) -> None:
    """A common offset of all tokens: LayerNorm takes it away, but FP16 sums have lost the rest to it by then."""
    model.backbone.patch_embed.bias.fill_(400.0)  # type: ignore[union-attr]


def lift_logits(model: Perception) -> None:
    """A common offset of all logits: nothing changes, except that FP16 cannot tell them apart any more."""
    model.head.body.layers[-1].bias.fill_(8000.0)  # type: ignore[index, union-attr]


def grow_mlp(model: Perception) -> None:
    """An MLP whose output overflows FP16; the norm that reads it brings it back."""
    model.backbone.blocks[0].mlp_in.weight.mul_(1e3)  # type: ignore[union-attr, operator]
    model.backbone.blocks[0].mlp_out.weight.mul_(1e4)  # type: ignore[union-attr, operator]


def test_values_beyond_fp16_stay_fp32(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", change=grow_mlp)
    result = export(open_bundle("seg", folder), "fp16", tmp_path / "out", engine="none", allow_mixed=True)
    assert result.rung == "mixed", "torch's plain float16 overflows"
    text = (result.folder / "report.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    weights = onnx.load(result.folder / "model.onnx").graph.initializer
    kinds = Counter(weight.data_type for weight in weights if len(weight.dims) > 1)
    assert kinds[TensorProto.FLOAT] >= 1
    assert kinds[TensorProto.FLOAT16] > kinds[TensorProto.FLOAT]
    frames = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    _, session = open_model(result.folder, "cpu")
    assert np.isfinite(session.infer(frames)["confidence"]).all()


@pytest.mark.parametrize("ladder", [[], ["--no-ladder"]])
def test_an_fp16_that_fails_is_not_shipped_as_something_else(
    ladder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", change=lift_tokens)
    arguments = ["--model", str(folder), "--out", str(tmp_path / "out"), "--engine", "none", *ladder]
    assert command(cli.export, monkeypatch, *arguments) == GateError.exit_code == 3
    told = r"fp16: .*\(failed\) \| mixed: .*\(passed\) \| fp32: .*\(passed\).*--precision fp32, or --allow-mixed"
    assert re.search(told, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_mixed_graph_is_taken_where_it_is_allowed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_bundle(tmp_path / "bundle", change=lift_tokens), tmp_path / "out"
    arguments = ["--model", str(folder), "--out", str(out), "--engine", "none", "--allow-mixed", "--json"]
    assert command(cli.export, monkeypatch, *arguments) == 0
    said = capsys.readouterr()
    assert "warning: fp16 missed its gate" in said.err
    assert json.loads(said.out)["rung"] == "mixed"
    assert Manifest.load(out / "manifest.json").rungs == ("model.fp32.onnx",)
    report = Report.load(out / "report.json")
    assert any("model.onnx is the mixed graph" in note for note in report.notes)
    assert not any(parity.passed for parity in report.parity if parity.graph == "fp16")
    assert sum(parity.passed for parity in report.parity if parity.graph == "mixed") == 2


def test_allow_mixed_changes_nothing_where_fp16_passes(bundle: Path, tmp_path: Path) -> None:
    loaded = open_bundle("seg", bundle)
    result = export(loaded, "fp16", tmp_path / "out", engine="none", ladder=False, allow_mixed=True)
    assert result.rung == "fp16"
    assert result.manifest.rungs == ()


def test_a_missed_gate_exits_3_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", change=lift_logits)
    out = tmp_path / "out"
    code = command(cli.export, monkeypatch, "--model", str(folder), "--out", str(out), "--engine", "none")
    said = capsys.readouterr()
    assert code == GateError.exit_code == 3
    assert re.search(r"error: fp16: .*\(failed\) \| mixed: .*\(failed\) .*use --precision fp32", said.err)
    assert "--allow-mixed" not in said.err, "the mixed graph failed too"
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--precision", "int8"], "int8 is not in this version"),
        (["--precision", "fp32", "--allow-mixed"], "leave it out"),
        (["--precision", "fp12"], "expected one of fp32, fp16"),
        (["--task", "pose"], "expected one of seg, cls"),
        (["--task", "cls"], "use --task seg"),
        (["--imgsz", "48"], "expected HxW"),
        (["--imgsz", "50x64"], "multiples of the patch size 8"),
        (["--engine", "onnx"], "expected one of auto"),
        (["--engine", "none", "--target", "sm86"], "leave one out"),
        pytest.param(
            ["--target", "sm86,sm999"],
            "sm999.*sm75.*sm86",
            marks=pytest.mark.skipif(not engine.available("rtx"), reason="tensorrt-rtx is not installed"),
        ),
        (["--data", "/nowhere"], "no such folder"),
        (["--out", "/dev/null/export"], "could not write"),
        (["--model", "/nowhere"], "no such folder"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    arguments: list[str],
    told: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = command(cli.export, monkeypatch, "--model", str(bundle), *arguments)
    said = capsys.readouterr()
    assert code == 1
    assert re.search(told, said.err)
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bundle.json", "backbone.safetensors", "head.safetensors"])
@pytest.mark.parametrize("size", [0, 100, None])
def test_a_damaged_bundle_is_refused(tmp_path: Path, name: str, size: int | None) -> None:
    folder = write_bundle(tmp_path / "bundle")
    content = (folder / name).read_bytes()
    if size is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[:size])
    with pytest.raises(InputError, match=re.escape(name)):
        open_bundle("seg", folder)


def test_json_is_one_object_and_nothing_else(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--model", str(bundle), "--precision", "fp32", "--engine", "none", "--out", str(out), "--json"]
    assert command(cli.export, monkeypatch, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(out)
    assert found["manifest"]["precision"] == "fp32"


@pytest.fixture(scope="module")
def labelled(exported: ExportResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose labels are the fp32 graph's own answers, at twice the model's size."""
    root = tmp_path_factory.mktemp("data")
    _, session = open_model(exported.folder / "model.fp32.onnx", "cpu")
    for part in ("images", "labels"):
        (root / "test" / part).mkdir(parents=True)
    for index in range(2):
        frame, _ = Street(seed=index, height=2 * SIZE[0], width=2 * SIZE[1]).frame(30)
        small = cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA)
        answer = session.infer(np.asarray(small[None], np.uint8))["class_map"][0]
        cv2.imwrite(str(root / f"test/images/{index}.png"), frame)
        cv2.imwrite(str(root / f"test/labels/{index}.png"), answer.repeat(2, axis=0).repeat(2, axis=1))
    classes = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


def test_evaluation_is_perfect_on_the_models_own_answers(exported: ExportResult, labelled: Path) -> None:
    found = evaluate(exported.folder / "model.fp32.onnx", labelled)
    assert found.score == 1.0
    assert (found.metric, found.images) == ("miou", 2)
    present = [value for value in found.per_class.values() if value is not None]
    assert len(present) >= 3
    assert set(present) == {1.0}


def test_bundle_and_folder_score_alike(exported: ExportResult, bundle: Path, labelled: Path) -> None:
    assert evaluate(bundle, labelled).score > 0.99
    assert evaluate(exported.folder, labelled).score > 0.97


def test_a_classifier_is_right_about_its_own_answers_and_wrong_about_others(
    classifier: ExportResult, tmp_path: Path
) -> None:
    _, session = open_model(classifier.folder, "cpu")
    frames = np.stack([Street(seed=seed, height=32, width=40).frame(0)[0] for seed in range(3)])
    inputs = [resize(frame, (8, 40), Resize())[None].repeat(2, axis=0) for frame in frames]
    answers = [int(session.infer(pair)["scores"][0].argmax()) for pair in inputs]
    for index, (frame, answer) in enumerate(zip(frames, answers, strict=True)):
        # One wrong label; three images do not fill two batches of two.
        label = CLASSES[(answer + (index == 2)) % len(CLASSES)]
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "test" / label / f"{index}.png"), frame)
    found = evaluate(classifier.folder, tmp_path)
    assert (found.metric, found.images) == ("top1", 3)
    assert found.score == pytest.approx(2 / 3)


def test_evaluation_refuses_other_classes(
    exported: ExportResult, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "data"
    other.mkdir()
    (other / "test").symlink_to(labelled / "test")
    (other / "classes.json").write_text((labelled / "classes.json").read_text().replace("Sky", "Sea"))
    with pytest.raises(InputError, match=r"Sea.*expected the model's: Sky"):
        evaluate(exported.folder, other)
    assert command(cli.evaluate, monkeypatch, str(exported.folder), "--data", str(other)) == 1
