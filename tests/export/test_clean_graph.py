"""The graph of a clean backbone: no noise in it, and the same weights whatever draw the record names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from aselect_edge import api
from aselect_edge.bundle import load_bundle
from aselect_export.exporting import export
from aselect_runtime.records import Bundle, Noise, Report, Selection, Tap

NOISE = Noise(alpha=0.8, sigma=0.6, model_timestep=300)
SIZE = (48, 64)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module", params=[True, False], ids=["clean", "noisy"])
def trained(
    request: pytest.FixtureRequest, backbone_folder: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, bool]:
    """A bundle, and whether its backbone is clean; both store their backbone."""
    chosen = Selection(backbone=str(backbone_folder), noise=NOISE, tap=Tap.parse("1.query"), strategy="manual")
    out, clean = tmp_path_factory.mktemp("bundle") / "bundle", bool(request.param)
    how = {"clean": True, "clean_samples": 16} if clean else {"finetune": True, "unfreeze": "last:1"}
    api.train(str(backbone_folder), chosen, street_data, out, imgsz=SIZE, head="linear", samples=8, **how)
    return out, clean


def exported(bundle: Path, seed: int, folder: Path) -> Path:
    """The export folder of the bundle with another draw of the noise."""
    copy = Path(shutil.copytree(bundle, folder / f"bundle{seed}"))
    record = Bundle.load(copy / "bundle.json").model_copy(update={"noise_seed": seed})
    record.save(copy / "bundle.json")
    return export(load_bundle(copy), "fp32", folder / f"export{seed}", engine="none").folder


def test_the_draw_is_part_of_a_noisy_graph_only(trained: tuple[Path, bool], tmp_path: Path) -> None:
    bundle, clean = trained
    folders = [exported(bundle, seed, tmp_path) for seed in (1, 2)]
    graphs = [onnx.load(folder / "model.onnx") for folder in folders]
    weights = [{w.name: numpy_helper.to_array(w) for w in graph.graph.initializer} for graph in graphs]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(value, weights[1][name]) for name, value in weights[0].items()) == clean
    assert not any("Random" in node.op_type for node in graphs[0].graph.node)
    assert [value.name for value in graphs[0].graph.input] == ["frames"]
    frame = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    answers = [
        onnxruntime.InferenceSession(str(folder / "model.onnx")).run(["confidence"], {"frames": frame})[0]
        for folder in folders
    ]
    assert np.array_equal(*answers) == clean
    report = Report.load(folders[0] / "report.json")
    assert report.parity
    assert all(parity.passed for parity in report.parity)
