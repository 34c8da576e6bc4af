"""What the benchmarks share, and that they count what was delivered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.harness import in_turns, listed, load, rows, save, stamp
from benchmarks.runtime import still
from benchmarks.runtime.efficiency import Act, plain, timed


def test_a_loop_is_credited_with_the_frames_that_it_delivered() -> None:
    """A clip of 221 frames that is asked for 300 has 221."""

    def loop(act: Act) -> None:
        for index in range(min(221, 300)):
            act(np.zeros((2, 2, 3), np.uint8), index)

    delivered, seconds = timed(loop, lambda frame, _: frame)
    assert delivered == 221
    assert seconds > 0


def test_the_plain_loop_ends_with_its_clip(clip: Path, tmp_path: Path) -> None:
    assert plain(clip, 0, 300, tmp_path) > 0
    assert len((tmp_path / "plain.jsonl").read_text().splitlines()) == 12  # of the 300 that were asked for
    written = cv2.VideoCapture(str(tmp_path / "plain.mp4"))
    assert sum(written.read()[0] for _ in range(300)) == 12


def test_ways_take_turns_and_the_middle_counts() -> None:
    said: list[str] = []
    values = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 3.0])}

    def way(name: str) -> float:
        said.append(name)
        return next(values[name])

    assert in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 3) == {"a": 2.0, "b": 4.0}
    assert said == ["a", "b"] * 3


def test_a_result_says_when_where_and_with_what_it_was_measured(tmp_path: Path) -> None:
    found = stamp("3 threads")
    assert found.keys() == {"date", "machine", "versions"}
    assert found["machine"].endswith(", 3 threads")
    assert found["versions"]["numpy"] == np.__version__
    path = tmp_path / "result.json"
    assert load(path) == {}
    save(path, {**found, "figures": {"rate [frames/s]": 1234.5, "peer": "not run"}})
    table = listed(load(path), "python -m it")
    assert table.splitlines()[:4] == [
        "| `python -m it` | |",
        "|---|---|",
        "| rate [frames/s] | 1,234.50 |",
        "| peer | not run |",
    ]
    assert f"numpy {np.__version__}" in table
    assert [line.split()[-1] for line in rows("title", load(path)["figures"]).splitlines()] == [
        "title",
        "1234.500",
        "run",
    ]


def test_still_frames_are_measured_on_a_static_scene(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASELECT_DATA", raising=False)
    monkeypatch.setattr(still, "STATIC", 6)
    monkeypatch.setattr(still, "CALLS", 2)
    figures = still.measure(seg_model)
    row = "static street, --skip-still 0.05"
    assert figures[f"{row}, frames not inferred [%]"] == pytest.approx(100 * 5 / 6)
    assert 90 < float(figures[f"{row}, pixels with the same class [%]"]) <= 100
    assert str(figures["people clip"]).startswith("not run")
