"""The Python API of the device's package: a model that is called, its results, and streams that are iterated."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pytest

from aselect_runtime import Captured, Model, Result, SourceInfo, open_source
from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.frames import Frame
from aselect_runtime.records import Resize
from aselect_runtime.results import Arrays
from tests.runtime.manifests import small_manifest


def _halves(height: int = 96, width: int = 128) -> Frame:
    """Left half black, right half white."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, width // 2 :] = 255
    return frame


def _best(shares: dict[str, float]) -> str:
    return max(shares, key=shares.__getitem__)


class _Camera:
    """A live source of black frames; lost after every `breaks` frames, if that is given."""

    def __init__(self, breaks: int | None = None) -> None:
        self.info = SourceInfo("camera", fps=100, live=True)
        self.entered = self.open = 0
        self.waits = Event()
        self._breaks = breaks

    def __enter__(self) -> _Camera:
        self.entered += 1
        self.open += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open -= 1

    def __iter__(self) -> Iterator[Captured]:
        index = 0
        while index != self._breaks:
            self.waits.wait(0.001)
            yield Captured(np.full((24, 32, 3), index % 2, np.uint8), index, f"{index}", self.info)
            index += 1
        raise InputError(f"camera: got no frame {index}, expected a stream; check the cable")


def test_a_frame_of_any_size_gives_a_result_at_its_size(seg_model: Path) -> None:
    with Model(seg_model, "cpu") as model:
        assert model.device == "cpu"
        result = model(_halves(100, 60))
        assert model(_halves()[::-1, ::-1]).class_map[0, 0] == 2  # a view that is not contiguous
    assert isinstance(result, Result)
    assert result.class_map.shape == result.confidence.shape == (100, 60)
    assert [result.class_map.dtype, result.confidence.dtype] == [np.uint8, np.float32]
    assert set(result.class_map[:, :28].ravel()) == {0}
    assert set(result.class_map[:, 32:].ravel()) == {2}
    assert result.areas == {"dark": 0.5, "middle": 0.0, "bright": 0.5}
    assert set(json.loads(result.to_json())) == {"t_result", "latency_ms", "areas"}
    assert set(result.latency_ms) == {"resize", "infer"}


def test_letterbox_borders_are_in_no_result(write_model: Callable[..., Path], tmp_path: Path) -> None:
    with Model(write_model(tmp_path / "model", resize=Resize(mode="letterbox")), "cpu") as model:
        result = model(np.zeros((100, 60, 3), np.uint8))
    assert result.class_map.shape == result.confidence.shape == (100, 60)
    assert result.areas == {"dark": 1.0, "middle": 0.0, "bright": 0.0}


def test_each_pixel_has_the_confidence_of_its_cell() -> None:
    outputs: Arrays = {"class_map": np.zeros((24, 32), np.uint8), "confidence": np.eye(2, dtype=np.float32)}
    captured = Captured(_halves(48, 64), 0, "frame", SourceInfo("camera", 30))
    confidence = Result(captured, outputs, small_manifest(), 0.0, {}).confidence
    np.testing.assert_array_equal(confidence, np.kron(np.eye(2), np.ones((24, 32))))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("task", ["seg", "cls"])
def test_a_list_gives_a_list_in_its_order(
    write_model: Callable[..., Path], tmp_path: Path, task: str, batch: int
) -> None:
    frames = [np.full((20 + index, 30, 3), grey, np.uint8) for index, grey in enumerate((0, 128, 255, 128))]
    with Model(str(write_model(tmp_path / "model", task, batch)), "cpu") as model:
        results = model(frames)
        assert model([]) == []
    best = [_best(result.areas if task == "seg" else result.top) for result in results]
    assert best == ["dark", "middle", "bright", "middle"]
    assert [result.frame.shape for result in results] == [frame.shape for frame in frames]


def test_a_classification_has_scores_and_no_map(cls_model: Path) -> None:
    with Model(cls_model, "cpu") as model:
        result = model(np.full((48, 64, 3), 255, np.uint8))
    assert next(iter(result.top)) == "bright"
    assert json.loads(result.to_json())["top"] == result.top
    for name in ("class_map", "confidence", "areas", "model_class_map"):
        with pytest.raises(InputError, match="expected an output of this model"):
            getattr(result, name)


def test_both_tasks_are_plotted(seg_model: Path, cls_model: Path) -> None:
    for folder in (seg_model, cls_model):
        with Model(folder, "cpu") as model:
            image = model(_halves()).plot()
        assert image.shape == (480, 640, 3)
        assert image.dtype == np.uint8
        assert len(np.unique(image)) > 2


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (None, "None, which cv2.imread returns"),
        ("street.jpg", "got str"),
        (np.zeros((24, 32), np.uint8), r"uint8 \[24, 32\]"),
        (np.zeros((24, 32, 3), np.float32), "float32"),
        (np.zeros((0, 32, 3), np.uint8), r"\[0, 32, 3\]"),
        (np.zeros((1, 24, 32, 3), np.uint8), r"\[1, 24, 32, 3\]"),
    ],
)
def test_arrays_that_are_no_frame_are_refused(seg_model: Path, frame: Any, got: str) -> None:
    with Model(seg_model, "cpu") as model:
        with pytest.raises(InputError, match=f"frame 0: .*{got}.*expected uint8"):
            model(frame)
        with pytest.raises(InputError, match=f"frame 1: .*{got}"):
            model([_halves(), frame])


def test_a_closed_model_says_so(seg_model: Path) -> None:
    with Model(seg_model, "cpu") as model:
        pass
    model.close()
    with pytest.raises(InputError, match="closed"):
        model(_halves())
    with pytest.raises(InputError, match="closed"):
        next(model.stream("synthetic://street"))


def test_every_frame_of_a_file_has_its_result(seg_model: Path, clip: Path) -> None:
    with Model(seg_model, "cpu") as model:
        results = list(model.stream(clip))
        again = list(model.stream(open_source(str(clip))))
    assert [result.captured.index for result in results] == [result.captured.index for result in again] == [*range(12)]
    line = json.loads(results[3].to_json())
    assert set(line) == {"frame", "source", "position", "t_capture", "t_result", "latency_ms", "areas"}
    assert (line["frame"], line["source"]) == (3, str(clip))
    assert results[3].class_map.shape == (96, 128)


def test_a_live_source_is_connected_again_and_the_newest_result_wins(seg_model: Path) -> None:
    camera, pause = _Camera(breaks=20), Event()
    with Model(seg_model, "cpu") as model:
        numbers = []
        for result in model.stream(camera):
            numbers.append(result.captured.index)
            pause.wait(0.05)
            if camera.entered > 1 and len(numbers) > 3:
                break
        assert not camera.open
        assert numbers == sorted(set(numbers))
        assert numbers[-1] > len(numbers)
        assert model(_halves()).areas["dark"] == 0.5  # the stream is closed, so the model is free


def test_closing_ends_the_source_and_every_thread(seg_model: Path) -> None:
    before, camera = set(threading.enumerate()), _Camera()
    with Model(seg_model, "cpu") as model:
        stream = model.stream(camera)
        next(stream)
        with pytest.raises(InputError, match="in use by a stream"):
            model(_halves())
        with pytest.raises(InputError, match="in use by a stream"):
            next(model.stream(camera))
    assert not camera.open
    assert set(threading.enumerate()) <= before
    assert list(stream) == []


def test_errors_of_a_stream_come_after_its_results(seg_model: Path, tmp_path: Path, clip: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:200])
    with Model(seg_model, "cpu") as model:
        with pytest.raises(InputError, match="no such input"):
            next(model.stream(str(tmp_path / "nothing.mp4")))
        with pytest.raises(InputError, match=r"broken\.mp4"):
            list(model.stream(str(broken)))
        assert next(model.stream(str(clip))).captured.index == 0


def test_an_invalid_output_of_the_session_is_an_error(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(seg_model, "cpu") as model:
        monkeypatch.setattr(model._session, "infer", lambda _: {"class_map": np.full((1, 24, 32), 3, np.uint8)})
        with pytest.raises(EngineError, match="got the class 3"):
            model(_halves())


def test_threads_that_share_a_model_wait_for_each_other(seg_model: Path) -> None:
    found: list[bool] = []
    with Model(seg_model, "cpu") as model:

        def call(grey: int) -> None:
            name = _best(model(np.full((24, 32, 3), grey, np.uint8)).areas)
            found.append(name == {0: "dark", 255: "bright"}[grey])

        threads = [threading.Thread(target=call, args=(grey,)) for grey in (0, 255) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 8


def test_an_image_of_the_plot_can_be_written(seg_model: Path, tmp_path: Path) -> None:
    with Model(seg_model, "cpu") as model:
        for number, result in enumerate(model.stream("synthetic://street?size=48x64&frames=2")):
            assert cv2.imwrite(str(tmp_path / f"{number}.png"), result.plot())
    assert len(list(tmp_path.iterdir())) == 2
