"""The whole way on a machine with a stand-in GPU: build, verify, climb, cache, and never load what is another's."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import pytest

from aselect_edge.errors import (
    EngineError,
    GateError,
    InputError,
    IntegrityError,
    MissingDependencyError,
    WriteError,
)
from aselect_edge.files import sha256
from aselect_edge.frames import Frame
from aselect_edge.records import Engine, Manifest, Parity, Report
from aselect_runtime import open_model
from aselect_runtime.engines import BuildOptions, add_engines
from aselect_runtime.engines.cache import Key, find, load_plan
from aselect_runtime.engines.gpu import Gpu
from aselect_runtime.engines.lock import LOCK, building
from aselect_runtime.engines.parity import climb, compare, measure
from aselect_runtime.engines.versions import available
from aselect_runtime.engines.watch import Silence, Told
from aselect_runtime.folder import load_folder
from aselect_runtime.onnx_session import OnnxSession
from aselect_runtime.results import Arrays
from tests.fake_gpu import Machine, fake_machine

WriteModel = Callable[..., Path]
ENGINE = "engines/trt-10.14.1.48-sm87.engine"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return fake_machine(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, write_model: WriteModel) -> Path:
    """An export folder with two fallback rungs, verification frames and a report."""
    return rungs(write_model(tmp_path / "seg"))


def rungs(folder: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), np.uint8)
    np.savez_compressed(folder / "verify.npz", frames=frames, class_map=np.zeros((4, 24, 32), np.uint8))
    Report(notes=("exported",)).save(folder / "report.json")
    names = ("model.mixed.onnx", "model.fp32.onnx")
    for name in names:
        shutil.copy(folder / "model.onnx", folder / name)
        relabel(folder / name, name)
    manifest = Manifest.load(folder / "manifest.json")
    files = {name: sha256(folder / name) for name in ("model.onnx", *names, "verify.npz", "report.json")}
    manifest.model_copy(update={"files": files, "rungs": names}).save(folder / "manifest.json")
    return folder


def relabel(graph: Path, text: str) -> None:
    """Another file that computes the same."""
    model = onnx.load(str(graph))
    model.doc_string = text
    onnx.save(model, str(graph))


def listed(folder: Path) -> tuple[Engine, ...]:
    return Manifest.load(folder / "manifest.json").engines


# --- building and verifying on the device


def test_an_engine_is_built_verified_and_recorded(folder: Path, machine: Machine) -> None:
    said: list[str] = []
    (engine,) = add_engines(folder, (), watch=Told(said.append))
    assert (engine.file, engine.gpu, engine.target, engine.model) == (ENGINE, "Fake Orin", "sm87", "model.onnx")
    assert engine.agreement == 1.0
    assert listed(folder) == (engine,)
    assert sha256(folder / ENGINE) == engine.sha256
    assert (folder / ENGINE).with_suffix(".timing").read_bytes() == b"times"
    report = Report.load(folder / "report.json")
    (parity,) = report.parity
    assert (parity.graph, parity.reference) == (f"{ENGINE} (model.onnx)", "onnxruntime cpu, model.onnx")
    assert parity.passed
    assert report.size[ENGINE] == (folder / ENGINE).stat().st_size
    assert Manifest.load(folder / "manifest.json").files["report.json"] == sha256(folder / "report.json")
    assert any("verifying" in line for line in said)
    assert sorted(path.name for path in (folder / "engines").iterdir()) == [
        ".lock",
        Path(ENGINE).name,
        Path(ENGINE).with_suffix(".timing").name,
    ]
    machine.driver.check_clean()


def test_an_engine_that_answers_wrongly_is_replaced_by_the_next_rung(folder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx"}  # one class everywhere, as TensorRT 10.3 to 10.7 did
    said: list[str] = []
    (engine,) = add_engines(folder, (), watch=Told(said.append))
    assert engine.model == "model.fp32.onnx"
    assert [parity.passed for parity in Report.load(folder / "report.json").parity] == [False, False, True]
    assert any("model.onnx" in line and "failed" in line for line in said)
    # Known from now on: it is not built again.
    machine.trt.built.clear()
    _, session = open_model(folder, "tensorrt")
    session.close()
    assert (session.device, machine.trt.built) == ("tensorrt", [])


def test_when_no_rung_answers_right_the_last_good_engine_stays(folder: Path, machine: Machine) -> None:
    add_engines(folder, ())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    with pytest.raises(GateError, match="upgrade TensorRT") as raised:
        add_engines(folder, ())
    assert raised.value.exit_code == 3
    assert {path: path.read_bytes() for path in before} == before
    assert {path.suffix for path in folder.rglob("*") if path.is_file() and path not in before} == {".failed"}
    machine.driver.check_clean()


def test_a_graph_that_cannot_be_built_gives_way_to_the_next(folder: Path, machine: Machine) -> None:
    machine.trt.refused = {"model.onnx"}
    assert add_engines(folder, ())[0].model == "model.mixed.onnx"
    assert "ForeignNode" in Report.load(folder / "report.json").notes[-1]
    machine.trt.refused = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    with pytest.raises(EngineError, match="ForeignNode"):
        add_engines(folder, (), BuildOptions(optimization_level=1))


@pytest.mark.usefixtures("machine")
def test_a_folder_without_verification_frames_says_so(tmp_path: Path, write_model: WriteModel) -> None:
    said: list[str] = []
    (engine,) = add_engines(write_model(tmp_path / "bare"), (), watch=Told(said.append))
    assert engine.agreement is None
    assert any("not verified" in line for line in said)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\x03\x04nonsense", "expected frames"), (None, "whole batches"), (b"", "expected frames")],
)
def test_verification_frames_that_are_none(folder: Path, machine: Machine, content: bytes | None, message: str) -> None:
    if content is None:
        np.savez_compressed(folder / "verify.npz", frames=np.zeros((3, 5, 5, 3), np.uint8))
    else:
        (folder / "verify.npz").write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        add_engines(folder, ())
    manifest = Manifest.load(folder / "manifest.json")
    files = manifest.files | {"verify.npz": sha256(folder / "verify.npz")}
    manifest.model_copy(update={"files": files}).save(folder / "manifest.json")
    with pytest.raises(IntegrityError, match=message):
        add_engines(folder, ())
    assert machine.trt.built == []


def test_the_known_bad_versions_are_named_before_they_build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, "10.3.0")
    said: list[str] = []
    add_engines(folder, (), watch=Told(said.append))
    assert any("answer wrongly" in line for line in said)


# --- aselect-run: build what is not there, reuse what is


def test_run_builds_once_and_then_reuses(folder: Path, machine: Machine) -> None:
    said: list[str] = []
    for _ in range(2):
        manifest, session = open_model(folder, "auto", Told(said.append))
        assert session.device == "tensorrt"
        assert session.infer(np.zeros(manifest.input.shape, np.uint8))["class_map"].shape == (1, 24, 32)
        session.close()
    assert machine.trt.built == ["model.onnx"]
    assert sum("this is done once" in line for line in said) == 1
    machine.driver.check_clean()


@pytest.mark.parametrize("change", ["version", "gpu", "graph", "truncated", "swapped", "missing"])
def test_an_engine_for_something_else_is_rebuilt_and_never_loaded(
    folder: Path, machine: Machine, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engines(folder, ())
    stale = (folder / ENGINE).read_bytes()
    if change == "version":
        machine = fake_machine(monkeypatch, "10.16.1.11")
    elif change == "gpu":
        machine.name = "Fake Orin NX"
    elif change == "graph":
        edit_graph(folder)
    elif change == "truncated":
        (folder / ENGINE).write_bytes(stale[:-9])
    elif change == "swapped":
        (folder / ENGINE).write_bytes(b"another's engine")
    else:
        (folder / ENGINE).unlink()
    found = (folder / ENGINE).read_bytes() if (folder / ENGINE).exists() else b""
    machine.trt.built.clear()
    machine.trt.loaded.clear()
    said: list[str] = []
    open_model(folder, "tensorrt", Told(said.append))[1].close()
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


def test_flags_that_were_asked_for_are_part_of_the_key_and_run_takes_any(folder: Path, machine: Machine) -> None:
    add_engines(folder, (), BuildOptions(workspace_mib=64))
    open_model(folder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx"]
    (engine,) = add_engines(folder, (), BuildOptions(optimization_level=5))
    assert engine.flags == {"strongly_typed": "true", "optimization_level": "5"}


@pytest.mark.parametrize("spoiled", [False, True])
def test_an_engine_that_was_never_verified_is_verified_before_its_first_use(
    folder: Path, machine: Machine, spoiled: bool
) -> None:
    """As `aselect-export --engine tensorrt` leaves it."""
    (engine,) = add_engines(folder, ())
    manifest = Manifest.load(folder / "manifest.json")
    unverified = engine.model_copy(update={"agreement": None})
    manifest.model_copy(update={"engines": (unverified,)}).save(folder / "manifest.json")
    machine.trt.built.clear()
    machine.trt.spoiled = {"model.onnx"} if spoiled else set()
    open_model(folder, "tensorrt")[1].close()
    assert machine.trt.built == (["model.mixed.onnx"] if spoiled else [])
    assert listed(folder)[0].agreement == 1.0


def test_auto_goes_on_without_tensorrt_when_no_engine_answers_right(folder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    said: list[str] = []
    _, session = open_model(folder, "auto", Told(said.append))
    session.close()
    assert session.device != "tensorrt"
    assert any("upgrade TensorRT" in line for line in said)
    with pytest.raises(GateError):
        open_model(folder, "tensorrt")


def test_a_failure_is_remembered_until_it_is_tried_again_on_purpose(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.trt.spoiled = {"model.onnx", "model.mixed.onnx", "model.fp32.onnx"}
    for _ in range(2):
        with pytest.raises(GateError, match="upgrade TensorRT"):
            open_model(folder, "tensorrt")
    assert len(machine.trt.built) == 3
    machine.trt.spoiled = set()
    add_engines(folder, ())
    assert not list(folder.rglob("*.failed"))
    open_model(folder, "tensorrt")[1].close()
    upgraded = fake_machine(monkeypatch, "10.16.1.11")
    open_model(folder, "tensorrt")[1].close()
    assert upgraded.trt.built == ["model.onnx"]


def test_the_gpu_at_hand_as_target_is_built_for_and_verified_as_without_one(folder: Path, machine: Machine) -> None:
    (engine,) = add_engines(folder, ("sm87",))
    assert (engine.file, engine.agreement) == (ENGINE, 1.0)
    assert machine.trt.built == ["model.onnx"]


def test_nothing_is_built_that_could_not_be_verified(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("got neither cuda-python nor pycuda")

    monkeypatch.setattr("aselect_runtime.engines.building.open_memory", missing)
    with pytest.raises(MissingDependencyError):
        add_engines(folder, ())
    said: list[str] = []
    _, session = open_model(folder, "auto", Told(said.append))
    session.close()
    assert session.device != "tensorrt"
    assert any("neither cuda-python nor pycuda" in line for line in said)
    assert machine.trt.built == []


def test_builds_again_and_again_leave_one_note_each(folder: Path, machine: Machine) -> None:
    machine.trt.spoiled = {"model.onnx"}
    for _ in range(3):
        add_engines(folder, ())
    notes = Report.load(folder / "report.json").notes
    assert len(notes) == len(set(notes)) == 2


def test_a_lone_graph_has_no_place_for_engines(folder: Path, machine: Machine) -> None:
    with pytest.raises(InputError, match="expected an export folder"):
        open_model(folder / "model.onnx", "tensorrt")
    assert open_model(folder / "model.onnx", "auto")[1].device != "tensorrt"
    assert machine.trt.built == []


def test_a_folder_that_cannot_be_written_to_is_told(folder: Path, machine: Machine) -> None:
    (folder / "engines").write_text("a file where the folder should be")
    with pytest.raises(WriteError, match="writable export folder"):
        open_model(folder, "tensorrt")
    assert machine.trt.built == []


# --- the parts


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
        ({"version": "10.3.1"}, "of tensorrt 10.3.1, here is tensorrt 10.3.0"),
        ({"builder": "tensorrt-rtx"}, "tensorrt-rtx"),
        ({"gpu": "Xavier"}, "for Xavier"),
        ({"target": "sm86", "gpu": None}, "for any GPU"),
        ({"onnx_sha256": "c" * 64}, "another model.onnx"),
    ],
)
def test_what_an_engine_must_have_been_built_for(changes: dict[str, Any], reason: str | None) -> None:
    told = KEY.mismatch(record(**changes))
    assert told == reason if reason is None else told is not None and reason in told


def test_weights_in_a_file_of_their_own_are_part_of_the_key(folder: Path, machine: Machine) -> None:
    """Two trainings of one network differ in nothing else."""
    weights = folder / "model.onnx.data"
    for content in (b"first", b"second"):
        weights.write_bytes(content)
        manifest = Manifest.load(folder / "manifest.json")
        files = manifest.files | {weights.name: sha256(weights)}
        manifest.model_copy(update={"files": files}).save(folder / "manifest.json")
        open_model(folder, "tensorrt")[1].close()
    assert machine.trt.built == ["model.onnx", "model.onnx"]


def test_an_engine_that_lies_outside_the_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    manifest = Manifest.load(folder / "manifest.json").model_copy(update={"engines": (record(file="../x.engine"),)})
    with pytest.raises(IntegrityError, match="inside the folder"):
        find(folder, manifest, [KEY])
    with pytest.raises(IntegrityError, match="run aselect-build"):
        load_plan(tmp_path, record())


def parity(agreement: float) -> Parity:
    return Parity(graph="g", reference="r", frames=1, max_error=0, agreement=agreement, passed=agreement >= 0.995)


def test_the_ladder_takes_the_first_rung_that_passes() -> None:
    built: list[str] = []

    def build(rung: str) -> str:
        built.append(rung)
        return rung.upper()

    found = climb(("a", "b", "c"), build, lambda rung, _: parity(1.0 if rung == "b" else 0.3))
    assert (found.rung, found.built, built) == ("b", "B", ["a", "b"])
    assert [p.agreement for p in found.parity] == [0.3, 1.0]
    with pytest.raises(GateError, match=r"a 30\.000%, b 30\.000%"):
        climb(("a", "b"), build, lambda *_: parity(0.3))


def test_a_rung_that_does_not_run_gives_way_to_the_next_and_is_no_miss() -> None:
    def measured(rung: str, _: str) -> Parity:
        if rung == "a":
            raise EngineError("no kernel")
        return parity(0.3 if rung == "b" else 1.0)

    assert climb(("a", "b", "c"), str.upper, measured).rung == "c"
    with pytest.raises(GateError, match=r"on b 30\.000%, expected"):
        climb(("a", "b"), str.upper, measured)
    with pytest.raises(EngineError, match="no kernel"):
        climb(("a",), str.upper, measured)


@pytest.mark.parametrize(("precision", "passes"), [("int8", True), ("fp16", False)])
def test_int8_may_differ_a_little_more(seg_model: Path, precision: str, passes: bool) -> None:
    manifest, graph = load_folder(seg_model)
    manifest = manifest.model_copy(update={"precision": precision})
    frames = np.random.default_rng(0).integers(0, 256, manifest.input.shape, np.uint8)
    session = OnnxSession(graph, "cpu")

    class Nearly:
        device = "tensorrt"

        def infer(self, batch: Frame) -> Arrays:
            answer = dict(session.infer(batch))
            answer["class_map"] = answer["class_map"].copy()
            answer["class_map"].flat[: answer["class_map"].size // 100] ^= 1  # one pixel of a hundred
            return answer

        def close(self) -> None:
            session.close()

    found = measure(Nearly(), "engine", graph, manifest, frames, {})
    assert found.passed is passes
    assert 0.985 < found.agreement < 0.995


def test_values_that_are_not_finite_never_pass() -> None:
    frames: dict[str, Any] = {
        "class_map": np.zeros((2, 4, 4), np.uint8),
        "confidence": np.full((2, 2, 2), np.nan, np.float32),
    }
    found = compare(frames, frames, "engine", "reference")
    assert (found.passed, found.agreement) == (False, 0.0)
    scores = {"scores": np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)}
    assert compare(scores, {"scores": scores["scores"][:, ::-1]}, "e", "r").agreement == 0.0
    assert compare(scores, scores, "e", "r").passed


# --- several processes


def hold(folder: Path, entered: Any, leave: Any) -> None:
    with building(folder, Silence()):
        entered.set()
        leave.wait(30)


def test_a_second_process_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, entered, leave))
    other.start()
    assert entered.wait(30)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        leave.set()

    with building(tmp_path, Told(tell)):
        assert said == [f"{tmp_path}: process {other.pid} is building an engine here; waiting for it"]
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    other.join()


def test_the_wait_for_another_process_can_be_ended(tmp_path: Path) -> None:
    stop = Event()
    with (
        building(tmp_path, Silence()),
        pytest.raises(KeyboardInterrupt),
        building(tmp_path, Told(lambda _: stop.set()), stop),
    ):
        pytest.fail("the lock is held")


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, entered, leave))
    other.start()
    assert entered.wait(30)
    other.kill()
    other.join()
    with building(tmp_path, Told(lambda line: pytest.fail(line))):
        pass


def test_who_waited_uses_what_the_other_built(
    folder: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the lock, another process builds: here a copy of its result is put in place."""
    done = shutil.copytree(folder, tmp_path / "done")
    add_engines(done, ())
    machine.trt.built.clear()

    def late(where: Path, *rest: Any) -> Any:
        shutil.copytree(done, folder, dirs_exist_ok=True)
        return building(where, *rest)

    monkeypatch.setattr("aselect_runtime.engines.building.building", late)
    open_model(folder, "tensorrt")[1].close()
    assert machine.trt.built == []


CODE = "import sys; from aselect_runtime.engine_cli import build as main; main()"


def aselect_build(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


rtx = pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")


@rtx
def test_two_real_builders_at_once_do_not_corrupt_the_folder(folder: Path) -> None:
    both = [aselect_build(folder, "--target", target, "--json") for target in ("sm86", "sm89")]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {engine.target for engine in listed(folder)} == {"sm86", "sm89"}
    for engine in listed(folder):
        assert sha256(folder / engine.file) == engine.sha256
    assert {json.loads(out)["engines"][0]["target"] for out, _ in outputs} == {"sm86", "sm89"}


@rtx
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_build_and_leaves_the_folder_as_it_was(folder: Path, number: signal.Signals) -> None:
    add_engines(folder, ["sm86"])
    before = (folder / "manifest.json").read_bytes(), sha256(folder / listed(folder)[0].file)
    targets = ",".join(["sm75", "sm80", "sm86", "sm89", "sm120"])
    process = aselect_build(folder, "--target", targets)
    assert process.stderr is not None
    assert "building" in process.stderr.readline()
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert (folder / "manifest.json").read_bytes() == before[0] or len(listed(folder)) > 1
    assert sha256(folder / f"engines/{Path(listed(folder)[0].file).name}") == before[1]
    assert not [path for path in (folder / "engines").iterdir() if path.name.startswith(".") and path.name != ".lock"]


@rtx
def test_a_build_that_is_stopped_beforehand_writes_nothing(folder: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        add_engines(folder, ["sm86"], stop=stop)
    assert [path.name for path in (folder / "engines").iterdir()] == [".lock"]


@rtx
def test_a_broken_terminal_does_not_end_a_build(folder: Path) -> None:
    class Broken(Silence):
        def advance(self, fraction: float, phase: str) -> None:
            raise OSError(f"{phase} {fraction}")

    assert add_engines(folder, ["sm86"], watch=Broken())[0].target == "sm86"


@rtx
def test_progress_is_reported_and_never_falls(folder: Path) -> None:
    seen: list[float] = []

    class Seen(Silence):
        def advance(self, fraction: float, phase: str) -> None:
            assert isinstance(phase, str)
            seen.append(fraction)

    add_engines(folder, ["sm86"], watch=Seen())
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(set(seen)) > 10


def test_the_interpreter_survives_every_engine_that_is_none(tmp_path: Path) -> None:
    """TensorRT-RTX is really loaded; without a driver its runtime must not be reached, whatever the file holds."""
    (tmp_path / "x.engine").write_bytes(b"ftrt" + bytes(1000))
    code = (
        "from pathlib import Path\n"
        "from aselect_edge.errors import AselectError\n"
        "from aselect_runtime.engines.tensorrt_session import TensorRtSession\n"
        f"for content in (b'', b'x', Path({str(tmp_path / 'x.engine')!r}).read_bytes()):\n"
        "    try:\n"
        "        TensorRtSession(content, 'rtx', 'x.engine').close()\n"
        "    except AselectError as error:\n"
        "        print('error:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error:") == 3
