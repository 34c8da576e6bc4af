"""docs/examples/fleet.py in one process here, and on Ray where `make test-fleet` has installed it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aselect_runtime import Model
from tests.proof.fleet import EXAMPLE, FLEET, FRAMES, VIDEOS, analysed, compared, filmed
from tests.proof.steps import ROOT


def test_the_example_writes_each_frame_and_continues(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("a.mp4", "b.MP4"):
        (videos / name).write_bytes(clip.read_bytes())
    (videos / "notes.txt").write_text("no video")
    command = list(map(str, (sys.executable, EXAMPLE, seg_model, videos, out, "--workers", 0)))
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert first.stdout == "2 videos, 24 frames\n"
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4.jsonl", "b.MP4.jsonl"]
    with Model(seg_model, device="cpu") as model:
        areas = [result.areas for result in model.stream(str(clip))]
    lines = [json.loads(line) for line in (out / "a.mp4.jsonl").read_text().splitlines()]
    assert [line["areas"] for line in lines] == areas
    assert [line["frame"] for line in lines] == list(range(12))
    (out / "b.MP4.jsonl").unlink()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == "1 videos, 12 frames\n"


@pytest.mark.skipif(not FLEET.complete, reason="make test-fleet has not installed Ray")
def test_a_killed_worker_is_replaced_and_its_video_tried_again(seg_model: Path, tmp_path: Path) -> None:
    videos = filmed(tmp_path / "videos", seg_model)
    here = str(ROOT / "runtime")  # what is installed there may be older
    expected = analysed(seg_model, videos, tmp_path / "one", 0, packages=here)
    told = compared("killed", expected, analysed(seg_model, videos, tmp_path / "killed", 2, kill=True, packages=here))
    assert told.seen == f"{VIDEOS * FRAMES} lines of {VIDEOS} videos, the same as in one process"
