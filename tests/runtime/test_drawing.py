"""Images of any shape are drawn and encoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_runtime.drawing import display_size
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks.opening import open_sink
from tests.runtime.manifests import small_manifest

SIZES = ((480, 640, 480, 640), (48, 64, 480, 640), (2160, 3840, 1080, 1920), (2000, 10, 1080, 6))
"""Height and width of a frame and of its image: 480 to 1080 high, aspect kept, even."""


@pytest.mark.parametrize(("height", "width", "drawn_height", "drawn_width"), SIZES)
def test_the_size_of_an_image(height: int, width: int, drawn_height: int, drawn_width: int) -> None:
    assert display_size(height, width) == (drawn_height, drawn_width)


@pytest.mark.parametrize(("height", "width"), [(2000, 10), (1000, 4), (10, 3000), (1, 1), (1, 20_000)])
@pytest.mark.parametrize("task", ["seg", "cls"])
def test_strips_are_drawn_and_encoded(tmp_path: Path, height: int, width: int, task: str) -> None:
    manifest = small_manifest("seg" if task == "seg" else "cls")
    outputs = {"class_map": np.zeros((24, 32), np.uint8)} if task == "seg" else {"scores": np.ones(3, np.float32)}
    captured = Captured(np.zeros((height, width, 3), np.uint8), 0, "a", SourceInfo("a", 25.0))
    path = tmp_path / "a.mp4"
    with open_sink(str(path), manifest) as write:
        write(Result(captured, outputs, manifest, 0.0, {}))
    found, frame = cv2.VideoCapture(str(path)).read()
    assert found
    drawn_height, drawn_width = frame.shape[:2]
    if height * 8 < width:
        assert 8000 < drawn_width <= 8191  # MPEG-4 states sizes in 13 bits
    else:
        assert 480 <= drawn_height <= 1080
    assert drawn_height == pytest.approx(drawn_width * height / width, abs=max(2, 1.1 * height / width))
