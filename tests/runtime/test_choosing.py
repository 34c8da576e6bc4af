"""Which way of running a model is taken, what is kept of it, and compiled models on disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime import choosing, open_model
from aselect_runtime.backends import usable_devices
from aselect_runtime.choosing import Way, best_index, choose, describe
from aselect_runtime.errors import EngineError, IntegrityError
from aselect_runtime.files import sha256
from aselect_runtime.frames import Frame
from aselect_runtime.processor import Processor, processor
from aselect_runtime.progress import silent
from aselect_runtime.records import Choice, Manifest, Trial
from aselect_runtime.results import Arrays
from aselect_runtime.sessions.compiled import KEPT, SEAL, compiled, compiled_folder
from aselect_runtime.sessions.openvino import OpenVinoSession
from tests.runtime.engines.engine_folder import add_rungs

EPYC = """processor\t: 0
model name\t: AMD EPYC 9004
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile

processor\t: 1
model name\t: another
flags\t\t: amx_bf16
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aselect-edge"


def _trial(ms: float, *, passed: bool = True, agreement: float | None = None, device: str = "cpu") -> Trial:
    return Trial(device=device, model="model.onnx", ms=ms, passed=passed, agreement=agreement)


def test_the_first_is_kept_unless_another_is_two_percent_faster() -> None:
    assert best_index([_trial(10.0)]) == 0
    assert best_index([_trial(10.2), _trial(10.0)]) == 1
    assert best_index([_trial(10.19), _trial(10.0)]) == 0
    assert best_index([_trial(10.0), _trial(11.0), _trial(5.0), _trial(4.95)]) == 2
    assert best_index([_trial(10.0), _trial(1.0, passed=False)]) == 0


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.booleans()), min_size=1, max_size=6))
def test_the_choice_passed_and_no_way_that_passed_is_much_faster(found: list[tuple[float, bool]]) -> None:
    trials = [_trial(ms, passed=number == 0 or passed) for number, (ms, passed) in enumerate(found)]
    taken = trials[best_index(trials)]
    assert taken.passed
    assert all(taken.ms < 1.02 * trial.ms * (1 + 1e-9) for trial in trials if trial.passed)


def test_the_line_names_what_was_taken_and_every_measurement() -> None:
    trials = (_trial(20.0, device="openvino"), _trial(12.34, agreement=0.9987, device="openvino-bf16"))
    line = describe(Choice(date="2026-11-27", trials=trials, taken=1))
    assert line == (
        "running model.onnx on openvino-bf16, the fastest measured here on 2026-11-27: model.onnx on openvino 20.0 ms, "
        "model.onnx on openvino-bf16 12.3 ms (99.87% same class)"
    )


def test_the_special_instructions_of_a_processor_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(EPYC)
    found = processor(tmp_path / "cpuinfo")
    assert (found.name, found.bf16, found.vnni) == ("AMD EPYC 9004", "AVX-512 BF16", True)
    assert replace(found, flags=found.flags | {"amx_bf16"}).bf16 == "AMX"
    assert replace(found, flags=frozenset({"avx2", "avx512f"})).bf16 is None
    assert processor(tmp_path / "missing").bf16 is None


class _Session:
    """Always says one class; counts how often one was opened."""

    device = "made up"
    opened = 0

    def __init__(self, answer: int) -> None:
        type(self).opened += 1
        self._answer = answer

    def infer(self, frames: Frame) -> Arrays:
        return {"class_map": np.full(frames.shape[:3], self._answer, np.uint8)}

    def close(self) -> None: ...


def _ways(folder: Path, *answers: int | None) -> list[Way]:
    def opened(answer: int | None) -> Callable[[], _Session]:
        def act() -> _Session:
            if answer is None:
                raise EngineError("it does not load")
            return _Session(answer)

        return act

    graph = folder / "model.onnx"
    return [Way(f"way {n}", graph, sha256(graph), opened(answer), gated=n > 0) for n, answer in enumerate(answers)]


@pytest.fixture
def folder(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    """An export folder whose frames are all dark, so that the right answer is class 0."""
    made = add_rungs(write_model(tmp_path / "model"))
    np.savez_compressed(
        made / "verify.npz", frames=np.zeros((2, 24, 32, 3), np.uint8), class_map=np.zeros((2, 24, 32), np.uint8)
    )
    manifest = Manifest.load(made / "manifest.json")
    files = manifest.files | {"verify.npz": sha256(made / "verify.npz")}
    manifest.model_copy(update={"files": files}).save(made / "manifest.json")
    return made


def test_a_way_that_is_wrong_or_does_not_load_is_never_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([10.0, 1.0])
    monkeypatch.setattr(choosing, "median_ms", lambda *_: next(times))
    manifest, ways = Manifest.load(folder / "manifest.json"), _ways(folder, 0, 2, None)
    with caplog.at_level(logging.INFO):
        assert choose(ways, folder, manifest, "1", silent) is ways[0]
    assert "way 1 failed (0.00% same class)" in caplog.text
    assert "it does not load; continuing without way 2" in caplog.text


def test_a_choice_is_measured_once_for_graphs_versions_and_machine(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, ways = Manifest.load(folder / "manifest.json"), _ways(folder, 0, 0)
    measured: list[int] = []

    def choose_again(ways: list[Way], version: str = "1", manifest: Manifest = manifest) -> Way:
        """The later way is faster."""
        times = iter([10.0, 1.0])

        def median_ms(*_: object) -> float:
            measured.append(1)
            return next(times)

        monkeypatch.setattr(choosing, "median_ms", median_ms)
        return choose(ways, folder, manifest, version, silent)

    assert choose_again(ways) is ways[1]
    assert len(measured) == 2
    opened = _Session.opened
    assert choose_again(ways) is ways[1]
    assert (len(measured), _Session.opened) == (2, opened)
    choose_again(ways, "2")
    assert len(measured) == 4
    choose_again([replace(way, digest="another graph") for way in ways])
    assert len(measured) == 6
    monkeypatch.setattr(choosing, "processor", lambda: Processor("another", frozenset()))
    choose_again(ways)
    assert len(measured) == 8
    for record in (cache / "choices").iterdir():
        record.write_text("{")
    assert choose_again(ways) is ways[1]
    assert len(measured) == 10
    others = {name: digest for name, digest in manifest.files.items() if name != "verify.npz"}
    choose_again(ways, manifest=manifest.model_copy(update={"files": others}))
    assert len(measured) == 12


def test_a_cache_that_cannot_be_written_costs_time_only(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choosing, "median_ms", lambda *_: 10.0)
    cache.parent.mkdir()
    cache.write_text("a file in its place")
    choose(_ways(folder, 0, 0), folder, Manifest.load(folder / "manifest.json"), "1", silent)
    assert "the next start measures again" in caplog.text


def _int8(folder: Path) -> Path:
    """The folder, said to be INT8: both of its graphs compute the same."""
    manifest = Manifest.load(folder / "manifest.json")
    manifest.model_copy(update={"precision": "int8"}).save(folder / "manifest.json")
    return folder


@pytest.mark.parametrize(
    ("factor", "taken"), [(1.5, "model.onnx"), (1.01, "model.mixed.onnx"), (0.5, "model.mixed.onnx")]
)
def test_int8_runs_only_where_it_is_faster_than_the_next_graph(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, factor: float, taken: str
) -> None:
    monkeypatch.setattr("aselect_runtime.sessions.openvino.available", lambda: False)
    times = iter([10.0, 10.0 / factor])
    monkeypatch.setattr(choosing, "median_ms", lambda *_: next(times))
    with caplog.at_level(logging.INFO):
        _, session = open_model(_int8(folder), "auto")
    assert session.device == "cpu"
    assert f"running {taken} on cpu, the fastest measured here" in caplog.text
    session.close()


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO in float32 on an x86 processor without a GPU."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("aselect_runtime.backends.available", lambda: ["cpu"])
    monkeypatch.setattr("aselect_runtime.backends.processor", lambda: Processor("old", frozenset({"avx2"})))


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(("factor", "taken"), [(1.5, "openvino"), (1.01, "cpu"), (0.5, "cpu")])
def test_auto_takes_openvino_where_it_is_faster_than_onnx_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float, taken: str
) -> None:
    times = iter([10.0, 10.0 / factor])
    monkeypatch.setattr(choosing, "median_ms", lambda *_: next(times))
    assert open_model(folder, "auto")[1].device == taken


@pytest.mark.usefixtures("openvino")
def test_auto_takes_the_backend_that_loads_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise IntegrityError("an operator that it does not have")

    monkeypatch.setattr("aselect_runtime.backends.OnnxSession", refuse)
    assert open_model(folder, "auto")[1].device == "openvino"
    monkeypatch.setattr("aselect_runtime.backends.OpenVinoSession", refuse)
    with pytest.raises(IntegrityError, match="an operator that it does not have"):
        open_model(_int8(folder), "auto")


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(("wrong", "taken"), [(False, "openvino"), (True, "cpu")])
def test_int8_on_openvino_must_answer_as_on_onnx_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool, taken: str
) -> None:
    times = iter([10.0, 10.0, 9.0, 5.0])  # of the next graph, then of INT8
    monkeypatch.setattr(choosing, "median_ms", lambda *_: next(times))
    infer = OpenVinoSession.infer

    def answer(self: OpenVinoSession, frames: Frame) -> Arrays:
        found = infer(self, frames)
        return {name: value + wrong for name, value in found.items()}

    monkeypatch.setattr(OpenVinoSession, "infer", answer)
    _, session = open_model(_int8(folder), "auto")
    assert session.device == taken


def test_a_damaged_graph_does_not_replace_int8(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aselect_runtime.sessions.openvino.available", lambda: False)
    (folder / "model.mixed.onnx").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"model\.mixed\.onnx"):
        open_model(_int8(folder), "auto")


def test_bfloat16_is_refused_by_name_where_it_would_be_emulated(
    seg_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aselect_runtime.backends.processor", lambda: Processor("old", frozenset({"avx2"})))
    with pytest.raises(EngineError, match="openvino-bf16 on old") as caught:
        open_model(seg_model, "openvino-bf16")
    assert caught.value.parameters == ("device",)


def test_bfloat16_needs_instructions_and_verification_frames(
    folder: Path, seg_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("aselect_runtime.backends.processor", lambda: Processor("new", frozenset({"amx_bf16"})))
    assert usable_devices(folder) == ["openvino", "openvino-bf16", "cpu"]
    assert usable_devices(seg_model) == usable_devices(seg_model / "model.onnx") == ["openvino", "cpu"]
    monkeypatch.setattr("aselect_runtime.backends.processor", lambda: Processor("old", frozenset({"avx2"})))
    assert usable_devices(folder) == ["openvino", "cpu"]


@pytest.fixture
def library() -> Callable[[str], str]:
    """Compiles into a file of the folder that it is given, or reads it from there."""

    def compile_with(folder: str) -> str:
        path = Path(folder) / "model.blob"
        if folder and path.exists():
            return f"read {path.read_text()}"
        if folder:
            path.write_text("compiled")
        return "compiled"

    return compile_with


def test_a_compiled_model_is_read_again_and_a_damaged_one_is_not(library: Callable[[str], str]) -> None:
    folder = compiled_folder("library", ["machine", "graph"])
    assert folder != compiled_folder("library", ["another machine", "graph"])
    assert compiled(None, library) == "compiled"
    assert compiled(folder, library) == "compiled"
    assert compiled(folder, library) == "read compiled"
    (folder / "model.blob").write_text("compilex")
    assert compiled(folder, library) == "compiled"
    assert compiled(folder, library) == "read compiled"
    (folder / "more.blob").write_text("not ours")
    assert compiled(folder, library) == "compiled"
    (folder / SEAL).write_text("[]")
    assert compiled(folder, library) == "compiled"
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_compiling_that_fails_leaves_nothing_and_says_so(cache: Path) -> None:
    def broken(_: str) -> str:
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        compiled(compiled_folder("library", ["graph"]), broken)
    assert list((cache / "library").iterdir()) == []


def test_a_place_that_cannot_be_written_costs_time_only(library: Callable[[str], str], cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "library").write_text("a file in its place")
    assert compiled(compiled_folder("library", ["graph"]), library) == "compiled"


def test_only_so_many_models_are_kept(library: Callable[[str], str], cache: Path) -> None:
    for number in range(KEPT + 3):
        compiled(compiled_folder("library", [str(number)]), library)
    assert len(list((cache / "library").iterdir())) == KEPT


def test_openvino_gives_the_same_results_from_its_cache_and_after_damage(
    seg_model: Path, tmp_path: Path, cache: Path
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    model = Path(shutil.copytree(seg_model, tmp_path / "copy"))
    frames = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), np.uint8)
    answers = []
    for damage in (False, False, True, False):
        if damage:
            (blob,) = (path for path in next((cache / "openvino").iterdir()).iterdir() if path.name != SEAL)
            blob.chmod(0o600)
            blob.write_bytes(bytes(byte ^ 0x55 for byte in blob.read_bytes()))
        _, session = open_model(model, "openvino")
        answers.append(session.infer(frames)["class_map"])
        session.close()
        (folder,) = (cache / "openvino").iterdir()
        hashes = json.loads((folder / SEAL).read_text())
        assert {path.name: sha256(path) for path in folder.iterdir() if path.name != SEAL} == hashes != {}
    for answer in answers[1:]:
        np.testing.assert_array_equal(answers[0], answer)
