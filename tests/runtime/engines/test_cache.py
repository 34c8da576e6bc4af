"""What `aselect-run` does about engines: builds what is not there, reuses what is, never loads what is another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aselect_runtime import open_model
from aselect_runtime.engines import BuildOptions, add_engines
from aselect_runtime.engines.cache import Key, find, load_plan
from aselect_runtime.engines.gpu import Gpu
from aselect_runtime.errors import GateError, InputError, IntegrityError, MissingDependencyError, WriteError
from aselect_runtime.files import sha256
from aselect_runtime.records import Engine, Manifest, Report
from tests.log_lines import heard
from tests.runtime.engines.engine_folder import ENGINE, listed, relabel
from tests.runtime.engines.fake_gpu import Machine, fake_machine


def test_run_builds_once_and_then_reuses(ladder: Path, machine: Machine) -> None:
    said: list[str] = []
    for _ in range(2):
        with heard(said.append):
            manifest, session = open_model(ladder, "auto")
        assert session.device == "tensorrt"
        assert session.infer(np.zeros(manifest.input.shape, np.uint8))["class_map"].shape == (1, 24, 32)
        session.close()
    assert machine.trt.built == ["model.onnx"]
    assert sum("which is done once" in line for line in said) == 1
    machine.driver.check_clean()


@pytest.mark.parametrize("change", ["version", "gpu", "graph", "truncated", "swapped", "missing"])
def test_an_engine_for_something_else_is_rebuilt_and_never_loaded(
    ladder: Path, machine: Machine, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engines(ladder, ())
    stale = (ladder / ENGINE).read_bytes()
    if change == "version":
        machine = fake_machine(monkeypatch, "10.16.1.11")
    elif change == "gpu":
        machine.name = "Fake Orin NX"
    elif change == "graph":
        edit_graph(ladder)
    elif change == "truncated":
        (ladder / ENGINE).write_bytes(stale[:-9])
    elif change == "swapped":
        (ladder / ENGINE).write_bytes(b"another's engine")
    else:
        (ladder / ENGINE).unlink()
    found = (ladder / ENGINE).read_bytes() if (ladder / ENGINE).exists() else b""
    machine.trt.built.clear()
    machine.trt.loaded.clear()
    said: list[str] = []
    with heard(said.append):
        open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx"]
    assert stale not in machine.trt.loaded or change in ("gpu", "truncated", "swapped", "missing")
    if change in ("truncated", "swapped"):
        assert found not in machine.trt.loaded
    assert any(line.startswith("not used: ") for line in said)


def edit_graph(folder: Path) -> None:
    relabel(folder / "model.onnx", "exported again")
    manifest = Manifest.load(folder / "manifest.json")
    files = manifest.files | {"model.onnx": sha256(folder / "model.onnx")}
    manifest.model_copy(update={"files": files}).save(folder / "manifest.json")


def test_flags_that_were_asked_for_are_part_of_the_key_and_run_takes_any(ladder: Path, machine: Machine) -> None:
    add_engines(ladder, (), BuildOptions(workspace_mib=64))
    open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx"]
    (engine,) = add_engines(ladder, (), BuildOptions(optimization_level=5))
    assert engine.flags == {"strongly_typed": "true", "optimization_level": "5"}


@pytest.mark.parametrize("spoiled", [False, True])
def test_an_engine_that_was_never_verified_is_verified_before_its_first_use(
    ladder: Path, machine: Machine, spoiled: bool
) -> None:
    """As `aselect-export --engine tensorrt` leaves it."""
    (engine,) = add_engines(ladder, ())
    manifest = Manifest.load(ladder / "manifest.json")
    unverified = engine.model_copy(update={"agreement": None})
    manifest.model_copy(update={"engines": (unverified,)}).save(ladder / "manifest.json")
    machine.trt.built.clear()
    machine.trt.spoiled = {"model.onnx"} if spoiled else set()
    open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == (["model.mixed.onnx"] if spoiled else [])
    assert listed(ladder)[0].agreement == 1.0


@pytest.mark.parametrize("spoiled", [False, True])
def test_records_in_a_copied_folder_do_not_make_its_engine_trusted(
    ladder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoiled: bool
) -> None:
    add_engines(ladder, ())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    machine.trt.built.clear()
    machine.trt.spoiled = {"model.onnx"} if spoiled else set()
    for _ in range(2):  # from then on it is known here
        open_model(ladder, "tensorrt")[1].close()
        assert machine.trt.built == (["model.mixed.onnx"] if spoiled else [])


def test_without_a_state_folder_an_engine_is_verified_again(
    ladder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/proc/nothing")
    said: list[str] = []
    with heard(said.append):
        for _ in range(2):
            open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx"]
    assert any("verified again at the next start" in line for line in said)


def test_auto_continues_without_tensorrt_if_no_engine_is_right(ladder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    said: list[str] = []
    with heard(said.append):
        _, session = open_model(ladder, "auto")
    session.close()
    assert session.device != "tensorrt"
    assert any("upgrade TensorRT" in line for line in said)
    with pytest.raises(GateError):
        open_model(ladder, "tensorrt")


def test_a_failure_is_remembered_until_it_is_tried_again_on_purpose(
    ladder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    for _ in range(2):
        with pytest.raises(GateError, match="upgrade TensorRT"):
            open_model(ladder, "tensorrt")
    assert len(machine.trt.built) == 3
    machine.trt.spoiled = set()
    add_engines(ladder, ())
    assert not list(ladder.rglob("*.failed"))
    open_model(ladder, "tensorrt")[1].close()
    upgraded = fake_machine(monkeypatch, "10.16.1.11")
    open_model(ladder, "tensorrt")[1].close()
    assert upgraded.trt.built == ["model.onnx"]


def test_the_gpu_at_hand_as_target_is_built_for_and_verified_as_without_one(ladder: Path, machine: Machine) -> None:
    (engine,) = add_engines(ladder, ("sm87",))
    assert (engine.file, engine.agreement) == (ENGINE, 1.0)
    assert machine.trt.built == ["model.onnx"]


def test_nothing_is_built_that_could_not_be_verified(
    ladder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("got neither cuda-python nor pycuda")

    monkeypatch.setattr("aselect_runtime.engines.building.open_memory", missing)
    with pytest.raises(MissingDependencyError):
        add_engines(ladder, ())
    said: list[str] = []
    with heard(said.append):
        _, session = open_model(ladder, "auto")
    session.close()
    assert session.device != "tensorrt"
    assert any("neither cuda-python nor pycuda" in line for line in said)
    assert machine.trt.built == []


def test_builds_again_and_again_leave_one_note_each(ladder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx"}
    for _ in range(3):
        add_engines(ladder, ())
    notes = Report.load(ladder / "report.json").notes
    assert len(notes) == len(set(notes)) == 2


def test_a_lone_graph_has_no_place_for_engines(ladder: Path, machine: Machine) -> None:
    with pytest.raises(InputError, match="expected an export folder"):
        open_model(ladder / "model.onnx", "tensorrt")
    assert open_model(ladder / "model.onnx", "auto")[1].device != "tensorrt"
    assert machine.trt.built == []


def test_a_folder_that_cannot_be_written_to_is_reported(ladder: Path, machine: Machine) -> None:
    (ladder / "engines").write_text("a file where the ladder should be")
    with pytest.raises(WriteError, match="writable export folder"):
        open_model(ladder, "tensorrt")
    assert machine.trt.built == []


GPU = Gpu("Orin", "sm87")
KEY = Key("a" * 64, "tensorrt", "10.3.0", GPU)


def record(**changes: Any) -> Engine:
    fields: dict[str, Any] = {
        "file": "engines/x.engine",
        "sha256": "b" * 64,
        "onnx_sha256": "a" * 64,
        "builder": "tensorrt",
        "version": "10.3.0",
        "target": "sm87",
        "gpu": "Orin",
    }
    return Engine(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"gpu": None}, None),  # ahead of time: for any GPU of that compute capability
        ({"version": "10.3.1"}, "for tensorrt 10.3.1, this machine has tensorrt 10.3.0"),
        ({"builder": "tensorrt-rtx"}, "tensorrt-rtx"),
        ({"gpu": "Xavier"}, "for Xavier"),
        ({"target": "sm86", "gpu": None}, "for any GPU"),
        ({"onnx_sha256": "c" * 64}, "another model.onnx"),
    ],
)
def test_what_an_engine_must_have_been_built_for(changes: dict[str, Any], reason: str | None) -> None:
    told = KEY.mismatch(record(**changes))
    assert told == reason if reason is None else told is not None and reason in told


def test_weights_in_a_file_of_their_own_are_part_of_the_key(ladder: Path, machine: Machine) -> None:
    """Two trainings of one network differ in nothing else."""
    weights = ladder / "model.onnx.data"
    for content in (b"first", b"second"):
        weights.write_bytes(content)
        manifest = Manifest.load(ladder / "manifest.json")
        files = manifest.files | {weights.name: sha256(weights)}
        manifest.model_copy(update={"files": files}).save(ladder / "manifest.json")
        open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx", "model.onnx"]


def test_an_engine_that_lies_outside_the_folder_is_refused(tmp_path: Path, ladder: Path) -> None:
    manifest = Manifest.load(ladder / "manifest.json").model_copy(update={"engines": (record(file="../x.engine"),)})
    with pytest.raises(IntegrityError, match="inside the folder"):
        find(ladder, manifest, [KEY])
    with pytest.raises(IntegrityError, match="run aselect-build"):
        load_plan(tmp_path, record())
