"""How an overlay video keeps the time of a live source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.records import Manifest
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks import open_sink

CAMERA = SourceInfo("camera", fps=10, live=True)
FILM = SourceInfo("film.mp4", fps=10)


def _film(model: Path, path: Path, frames: Sequence[Captured]) -> int:
    """How many pictures the film of these frames has."""
    answer = {"class_map": np.zeros((24, 32), np.uint8)}
    with open_sink(str(path), Manifest.load(model / "manifest.json")) as write:
        for captured in frames:
            write(Result(captured, answer, 0.0, {}))
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count


def _captured(source: SourceInfo, monotonic: float, unix: float = 0.0) -> Captured:
    return Captured(np.zeros((24, 32, 3), np.uint8), 0, "frame", source, unix, monotonic)


@pytest.mark.parametrize(
    ("arrivals", "pictures"),
    [
        ([0, 0.1, 0.2, 0.3], 4),
        ([0, 0.11, 0.19, 0.31], 4),  # a camera's jitter
        ([0, 0.04, 0.08, 0.12, 0.16, 0.2], 3),  # faster than it said
        ([0, 0.3, 0.6], 7),  # frames were dropped: the film still lasts as long
        ([0, 3600, 3600.1], 12),  # a pause counts as one second, once
    ],
)
def test_a_live_film_lasts_as_long_as_its_source(
    seg_model: Path, tmp_path: Path, arrivals: list[float], pictures: int
) -> None:
    frames = [_captured(CAMERA, 500.0 + second) for second in arrivals]
    assert _film(seg_model, tmp_path / "film.mp4", frames) == pictures


def test_setting_the_clock_does_not_stretch_a_live_film(seg_model: Path, tmp_path: Path) -> None:
    unix = [0.0, 0.1, 1.8e9, 5.0]
    frames = [_captured(CAMERA, number / 10, time) for number, time in enumerate(unix)]
    assert _film(seg_model, tmp_path / "film.mp4", frames) == 4


def test_a_camera_after_a_file_starts_its_own_time(seg_model: Path, tmp_path: Path) -> None:
    frames = [_captured(FILM, second / 1000) for second in range(20)]  # decoded much faster than it plays
    frames += [_captured(CAMERA, 0.02 + second / 10) for second in range(3)]
    assert _film(seg_model, tmp_path / "film.mp4", frames) == 23
