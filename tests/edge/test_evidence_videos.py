"""Frames of a video as evidence: spread over those that it shows, whatever its container promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_edge.selection.evidence import open_images
from tests.runtime import videos


@pytest.mark.parametrize("name", videos.KINDS)
def test_the_frames_of_a_healthy_video_are_all_found(tmp_path: Path, name: str) -> None:
    make, wanted = videos.KINDS[name]
    path = make(tmp_path / name)
    every = open_images(path, 1000, 0, "seg")
    assert [videos.number_of(read()) for read in every.reads] == list(wanted)
    spread = [videos.number_of(read()) for read in open_images(path, 10, 0, "seg").reads]
    assert spread == [wanted[(2 * n + 1) * len(wanted) // 20] for n in range(10)]
