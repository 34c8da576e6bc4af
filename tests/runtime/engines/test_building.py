"""aselect-build on a folder, with the real TensorRT-RTX builder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aselect_runtime.commands.build import build
from aselect_runtime.engines import add_engines, versions
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.records import Manifest

pytest.importorskip("torch", reason="tests.bundles needs it")
from tests.bundles import command

rtx = pytest.mark.skipif(not versions.available("rtx"), reason="tensorrt-rtx is not installed")


@pytest.fixture
def seg_model(tmp_path: Path, write_model: Callable[[Path], Path]) -> Path:
    return write_model(tmp_path / "seg")  # a folder of this test's own, because tests here change it


@rtx
def test_an_engine_is_added_and_replaced(seg_model: Path) -> None:
    for _ in range(2):
        add_engines(seg_model, ["sm86"])
    add_engines(seg_model, ["sm89"])
    manifest = Manifest.load(seg_model / "manifest.json")
    assert [e.target for e in manifest.engines] == ["sm86", "sm89"]
    for entry in manifest.engines:
        assert sha256(seg_model / entry.file) == entry.sha256
        assert entry.onnx_sha256 == manifest.files["model.onnx"]


@rtx
def test_a_changed_graph_is_not_built(seg_model: Path) -> None:
    with (seg_model / "model.onnx").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(IntegrityError, match="corrupt or was changed"):
        add_engines(seg_model, ["sm86"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"files": {}}, "no hash of model.onnx"), ({"model": "../model.onnx"}, "inside the folder")],
)
def test_a_graph_that_the_manifest_does_not_list_is_not_built(
    seg_model: Path, fault: dict[str, object], message: str
) -> None:
    path = seg_model / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fault))
    with pytest.raises(IntegrityError, match=message):
        add_engines(seg_model, ["sm86"])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder, expected an export folder"):
        add_engines(tmp_path / "nothing", ["sm86"])
    with pytest.raises(InputError, match=r"got a folder without manifest\.json, expected an export folder"):
        add_engines(tmp_path, ())
    assert list(tmp_path.iterdir()) == []


@rtx
def test_an_unknown_target_lists_the_known_ones(seg_model: Path) -> None:
    with pytest.raises(InputError, match="sm86"):
        add_engines(seg_model, ["sm12345"])


@rtx
def test_the_command_takes_options_and_prints_one_object(
    seg_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", "sm86,sm89", "--workspace", "256", "--optimization-level", "1"]
    assert command(build, monkeypatch, str(seg_model), *options, "--json") == 0
    said = capsys.readouterr()
    engines = json.loads(said.out)["engines"]
    assert [engine["target"] for engine in engines] == ["sm86", "sm89"]
    assert engines[0]["flags"] == {"strongly_typed": "true", "workspace_mib": "256", "optimization_level": "1"}
    assert said.err.count("building the sm8") == 2
    assert command(build, monkeypatch, str(seg_model), "--target", "sm86") == 0
    assert "model.onnx, not verified: it needs a GPU" in capsys.readouterr().out
    assert command(build, monkeypatch, str(seg_model), "--optimization-level", "9") == 2
