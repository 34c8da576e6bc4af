"""Outputs that somebody removes while they are written: an error in one line, and what is left is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_file
from aselect_runtime.results import Result
from aselect_runtime.sinks.lines import lines
from aselect_runtime.sinks.masks import masks
from aselect_runtime.sinks.sink import Sink
from aselect_runtime.sinks.video import video
from tests.runtime.manifests import small_manifest
from tests.runtime.test_lines import a_result

STREET = "synthetic://street?size=48x64&frames=30"


def _run(model: Path, output: str, then: Callable[[], object]) -> None:
    manifest, session = open_model(model, "cpu")
    seen: list[Result] = []

    def count(result: Result) -> None:
        seen.append(result)
        if len(seen) == 20:  # more than wait for an output
            then()

    try:
        run_pipeline(manifest, session, [STREET], [output], on_frame=count)
    finally:
        session.close()


@pytest.mark.parametrize("name", ["last.png", "a.jsonl", "masks/", "a.mp4", "a.mkv"])
def test_a_folder_removed_during_the_run_is_named(seg_model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(WriteError, match=r"out/(last|a|masks).*was removed during the run.*expected") as caught:
        _run(seg_model, f"{out}/{name}", lambda: _remove(out))
    assert "\n" not in str(caught.value)
    assert not out.exists()


def _remove(folder: Path) -> None:
    """Remove a folder that a thread writes into: after the rename it can add nothing more to it."""
    shutil.rmtree(folder.rename(folder.with_name("removed")))


def test_a_folder_removed_before_the_first_frame_is_named(tmp_path: Path) -> None:
    with video(tmp_path / "out" / "a.mp4", small_manifest()) as write:
        (tmp_path / "out").rmdir()
        write(a_result(0))  # encoded in a thread
        with pytest.raises(WriteError, match=r"a\.mp4: was removed"):
            write(a_result(1))


def test_lines_without_a_name_are_an_error_also_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(WriteError, match=r"a\.jsonl: was removed"):
        _write_and(path.unlink, lines(path))
    _write_and(lambda: path.rename(tmp_path / "rotated.jsonl"), lines(path))  # the lines can still be read
    assert len((tmp_path / "rotated.jsonl").read_text().splitlines()) == 3


def test_masks_that_are_left_are_kept_and_listed(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="got 2 masks at the end, expected 3"):
        _write_and(lambda: next(tmp_path.glob(".m-*/a.png")).unlink(), masks(tmp_path / "m", small_manifest()))
    listed = json.loads((tmp_path / "m" / "masks.json").read_text())["files"]
    assert listed == ["in/a/folder.png", "b.png"]
    assert all((tmp_path / "m" / name).is_file() for name in listed)


def _write_and(then: Callable[[], object], sink: Sink) -> None:
    with sink as write:
        for number, label in enumerate(("a", "in/a/folder", "b")):
            write(a_result(number, label))
        then()


def test_a_missing_input_file_is_not_called_a_removed_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "nowhere").read_text()
