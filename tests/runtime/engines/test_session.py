"""The TensorRT session's logic against a strict stand-in for the driver; and, where there is a GPU, the real thing."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_runtime.engines import engine_name
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.tensorrt_session import TensorRtSession, infer_all
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import EngineError, IntegrityError
from aselect_runtime.frames import Frame
from aselect_runtime.records import Manifest
from aselect_runtime.sessions.onnx import OnnxSession
from tests.runtime.engines.fake_gpu import MAGIC, POISON, FakeDriver, Machine, MisuseError, fake_machine


def plan(folder: Path, version: str = "10.14.1.48", graph: str = "model.onnx") -> bytes:
    head = json.dumps({"version": version, "graph": graph}).encode()
    return MAGIC + head + b"\n" + (folder / "model.onnx").read_bytes()


def opened(folder: Path) -> TensorRtSession:
    return TensorRtSession(plan(folder), "tensorrt", "x.engine")


def images(count: int) -> list[Frame]:
    return [np.random.default_rng(seed).integers(0, 256, (1, 24, 32, 3), np.uint8) for seed in range(count)]


@pytest.mark.parametrize("capture_works", [True, False])
@pytest.mark.parametrize("model", ["seg_model", "cls_model"])
def test_it_answers_as_onnx_runtime_does(
    model: str, capture_works: bool, machine: Machine, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    machine.driver.capture_works = capture_works
    reference = OnnxSession(folder / "model.onnx", "cpu")
    with closing(opened(folder)) as session:
        assert session.cuda_graph is capture_works
        for frames in images(3):
            got, expected = session.infer(frames), reference.infer(frames)
            assert got.keys() == expected.keys()
            for name in got:
                np.testing.assert_array_equal(got[name], expected[name])
    machine.driver.check_clean()


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.booleans(), max_size=12))
def test_any_order_of_submit_and_collect_gives_the_answers_in_order(seg_model: Path, order: list[bool]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine, reference = fake_machine(patch), OnnxSession(seg_model / "model.onnx", "cpu")
        frames, pending = iter(images(len(order))), list[Frame]()
        with closing(opened(seg_model)) as session:
            for submit in order:
                if submit and len(pending) < session.depth:
                    batch = next(frames)
                    session.submit(batch)
                    pending.append(batch.copy())
                    batch[...] = 0  # the caller's array may be reused at once
                elif not submit and pending:
                    expected = reference.infer(pending.pop(0))["class_map"]
                    np.testing.assert_array_equal(session.collect()["class_map"], expected)
        machine.driver.check_clean()  # also with batches that nobody collected


def test_the_copy_of_a_frame_does_not_wait_for_the_computation_of_the_one_before(
    seg_model: Path, machine: Machine
) -> None:
    with closing(opened(seg_model)) as session:
        execution, before = session._execution, len(machine.driver.trace)
        for frames in images(2):
            session.submit(frames)
        session._owned(lambda: machine.driver.synchronize_stream(execution._in))
        assert machine.driver.trace[before:] == ["copy_in", "copy_in"]
        session.collect()
        assert machine.driver.trace[before + 2 :] == ["compute", "copy_out", "copy_out"]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_infer_all_is_in_order_and_leaves_nothing_pending(seg_model: Path, depth: int) -> None:
    reference = OnnxSession(seg_model / "model.onnx", "cpu")
    expected = [reference.infer(frames)["class_map"] for frames in images(depth)]
    with closing(opened(seg_model)) as session:
        for got, wanted in zip(infer_all(session, images(depth)), expected, strict=True):
            np.testing.assert_array_equal(got["class_map"], wanted)
        stopped = infer_all(session, images(4))
        next(stopped)
        stopped.close()
        session.infer(images(1)[0])
    assert len(list(infer_all(reference, images(2)))) == 2  # a session without submit


@pytest.mark.usefixtures("machine")
def test_results_stay_as_they_are_when_the_buffers_are_used_again(seg_model: Path) -> None:
    with closing(opened(seg_model)) as session:
        first = session.infer(np.full((1, 24, 32, 3), 255, np.uint8))["class_map"]
        for frames in images(4):
            session.infer(frames)
    assert set(first.ravel()) == {2}


def test_any_thread_may_call_because_one_thread_owns_the_gpu(seg_model: Path, machine: Machine) -> None:
    with closing(opened(seg_model)) as session:
        answers: list[object] = []
        caller = threading.Thread(target=lambda: answers.append(session.infer(images(1)[0])))
        caller.start()
        caller.join()
        assert answers
    machine.driver.check_clean()


def test_a_failure_of_any_driver_call_while_opening_leaves_nothing_behind(seg_model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = fake_machine(patch)
        opened(seg_model).close()
        calls = machine.driver.calls
    failed = 0
    for number in range(calls):
        with pytest.MonkeyPatch.context() as patch:
            machine = fake_machine(patch)
            machine.driver.fail_at = number
            try:
                opened(seg_model).close()  # releases cannot fail; a failed capture is no error
            except EngineError:
                failed += 1
            machine.driver.check_clean()
    assert failed > 20


def test_a_failure_while_it_runs_is_reported_once_and_leaves_nothing_behind(seg_model: Path, machine: Machine) -> None:
    session = opened(seg_model)
    machine.driver.fail_at = machine.driver.calls + 3
    with pytest.raises(EngineError, match="719"):
        session.infer(images(1)[0])
    session.close()
    machine.driver.check_clean()


def test_a_gpu_that_is_lost_for_good_raises_its_error_once(seg_model: Path, machine: Machine) -> None:
    session = opened(seg_model)
    machine.driver.lost = True
    with pytest.raises(EngineError, match="copy_in"):
        session.infer(images(1)[0])
    session.close()
    assert not any(thread.name.startswith("tensorrt") for thread in threading.enumerate())


def test_wrong_use_of_the_session_is_an_error_of_ours(seg_model: Path, machine: Machine) -> None:
    session, frames = opened(seg_model), images(3)
    with pytest.raises(EngineError, match="nothing pending"):
        session.collect()
    with pytest.raises(EngineError, match=r"got frames \[2, 24, 32, 3\]"):
        session.submit(np.zeros((2, 24, 32, 3), np.uint8))
    session.submit(frames[0])
    with pytest.raises(EngineError, match="collect them first"):
        session.infer(frames[1])
    session.submit(frames[1])
    with pytest.raises(EngineError, match="expected at most 2"):
        session.submit(frames[2])
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.infer(frames[0])
    machine.driver.check_clean()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot load it"),
        (b"not an engine", "truncated"),
        (
            MAGIC + b'{"version": "10.3.0", "graph": "x"}\n' + b"graph",
            "another version.*run aselect-build on this machine",
        ),
    ],
)
def test_an_engine_that_does_not_load(content: bytes, message: str, machine: Machine) -> None:
    with pytest.raises(EngineError, match=message):
        TensorRtSession(content, "tensorrt", "x.engine")
    machine.driver.check_clean()


def test_too_little_gpu_memory_is_reported_with_what_to_do(seg_model: Path, machine: Machine) -> None:
    machine.driver.capacity = 100
    with pytest.raises(EngineError, match="could not allocate 2304 bytes"):
        opened(seg_model)
    machine.driver.check_clean()


@pytest.mark.usefixtures("machine")
def test_an_engine_of_another_model_is_refused(seg_model: Path, cls_model: Path) -> None:
    with closing(opened(seg_model)) as session:
        session.check(Manifest.load(seg_model / "manifest.json"))
        with pytest.raises(IntegrityError, match="class_map"):
            session.check(Manifest.load(cls_model / "manifest.json"))


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_without_a_driver_tensorrt_is_never_touched(seg_model: Path) -> None:
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        TensorRtSession(plan(seg_model), "rtx", "x.engine")


def test_the_stand_in_reports_misuse_of_the_driver() -> None:
    def misuse(break_it: str) -> None:
        driver = FakeDriver()
        driver.attach()
        stream, other, event = driver.create_stream(), driver.create_stream(), driver.create_event()
        address, buffer = driver.allocate(4), driver.allocate_pinned(4)
        driver.copy_in(address, buffer, stream)
        if break_it == "write while copying":
            buffer[...] = 1
            driver.synchronize_stream(stream)
        elif break_it == "free while busy":
            driver.free(address)
        elif break_it == "destroy while busy":
            driver.destroy_stream(stream)
        elif break_it == "not pinned":
            driver.copy_in(address, np.zeros(4, np.uint8), stream)
        elif break_it == "leak":
            driver.synchronize_stream(stream)
            driver.detach()
        elif break_it == "double free":
            driver.synchronize_stream(stream)
            driver.free(address)
            driver.free(address)
        elif break_it == "another thread":
            raised: list[BaseException] = []

            def use() -> None:
                try:
                    driver.allocate(1)
                except MisuseError as error:
                    raised.append(error)

            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            raise raised[0]
        elif break_it == "no dependency":  # the copy out overtakes the copy in
            driver.record_event(event, other)
            driver.copy_out(buffer, address, other)
            driver.synchronize_stream(other)
            if set(buffer) == {POISON}:
                raise MisuseError("what was read was never written")

    for kind in (
        "write while copying",
        "free while busy",
        "destroy while busy",
        "not pinned",
        "leak",
        "double free",
        "another thread",
        "no dependency",
    ):
        with pytest.raises(MisuseError):
            misuse(kind)


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None or not available("tensorrt"), reason="needs a GPU with TensorRT")
def test_the_real_thing_answers_as_onnx_runtime_does(seg_model: Path, tmp_path: Path) -> None:
    from aselect_runtime.engines import build_engine

    engine = tmp_path / Path(engine_name("tensorrt", "sm00")).name
    build_engine(seg_model / "model.onnx", engine, None, "tensorrt")
    reference = OnnxSession(seg_model / "model.onnx", "cpu")
    with closing(TensorRtSession(engine.read_bytes(), "tensorrt", engine.name)) as session:
        for got, frames in zip(infer_all(session, images(8)), images(8), strict=True):
            np.testing.assert_array_equal(got["class_map"], reference.infer(frames)["class_map"])
