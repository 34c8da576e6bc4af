"""Two processes that write one file in place: the second is refused, and the first keeps its results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aselect_runtime.errors import WriteError
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.opening import open_sink
from aselect_runtime.sinks.recording import recording
from aselect_runtime.sinks.video import video
from tests import forked
from tests.runtime import videos
from tests.runtime.manifests import small_manifest
from tests.runtime.test_events import RULES
from tests.runtime.test_lines import a_result

OTHER = """
import sys
from aselect_runtime.errors import WriteError
from aselect_runtime.sinks.opening import open_sink
from tests.runtime.manifests import small_manifest
from tests.runtime.test_lines import a_result
try:
    with open_sink(sys.argv[1], small_manifest()) as write:
        write(a_result(7))
except WriteError as error:
    sys.exit(str(error))
"""


def _another_process(path: Path) -> str:
    """Writes one result; returns its error, empty if it succeeded."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OTHER, str(path)]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False).stderr


@pytest.mark.parametrize("name", ["a.jsonl", "a.mp4", "a.mkv"])
def test_a_second_process_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_sink(str(path), small_manifest()) as write:
        for number in range(3):
            write(a_result(number))
        assert "is being written by another process, expected" in _another_process(path)
        write(a_result(3))
    kept = path.read_text().splitlines() if name == "a.jsonl" else videos.read(path)
    assert len(kept) == 4
    assert _another_process(path) == ""
    kept = path.read_text().splitlines() if name == "a.jsonl" else videos.read(path)
    assert len(kept) == 1


def test_of_two_videos_that_both_wait_for_a_first_frame_one_is_refused(tmp_path: Path) -> None:
    with video(tmp_path / "a.mp4", small_manifest()) as first:
        late = video(tmp_path / "a.mp4", small_manifest())
        second = late.__enter__()  # no file yet, so that nothing tells of the other
        for number in range(2):  # encoded in a thread: the first result is written when the second is given
            first(a_result(number))
        second(a_result(0))
        with pytest.raises(WriteError, match="is being written by another process"):
            late.__exit__(None, None, None)
    assert len(videos.read(tmp_path / "a.mp4")) == 2


STREET = "synthetic://street?size=48x64&frames=6"


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run("-c", "from aselect_runtime.commands.run import run; run()", *map(str, arguments))


def _refused(done: subprocess.CompletedProcess[str], folder: Path) -> bool:
    expected = f"error: {folder}: is being written by another process, expected a folder of this run alone; "
    return done.returncode == 1 and done.stderr.startswith(expected) and done.stderr.count("\n") == 1


def test_a_second_process_does_not_record_events_in_the_same_folder(seg_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra `record` is not installed")
    from aselect_runtime.sinks.event_videos import EventVideos

    folder, lines, clip = tmp_path / "videos", tmp_path / "a.jsonl", tmp_path / "a.mp4"
    videos.write(clip, videos.regular(20))
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.001\n')
    options = ["--rules", tmp_path / "rules.toml", "--record-events", folder, "--keep-gb", 0.001, "-o", lines]
    with EventVideos(EventRecording(folder), RULES, [str(clip)]):
        (folder / "1000-1-a.mkv").write_bytes(bytes(2_000_000))  # more than the other keeps
        assert _refused(_command(seg_model, clip, *options), folder)
        assert [path.name for path in folder.iterdir()] == ["1000-1-a.mkv"]
        assert lines.read_text() == ""
    assert _command(seg_model, clip, *options).returncode == 0
    assert not (folder / "1000-1-a.mkv").exists()
    assert len(lines.read_text().splitlines()) == 20


def test_a_second_process_does_not_record_for_calibration_in_the_same_folder(seg_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    with recording(folder):
        assert _refused(_command(seg_model, STREET, "--record-calibration", folder), folder)
        assert [path.name for path in folder.iterdir()] == ["calibration.txt"]
    assert _command(seg_model, STREET, "--record-calibration", folder).returncode == 0
    assert list(folder.glob("*.png"))
