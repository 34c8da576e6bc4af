"""Sources: every frame of a file, and one clear line for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_edge.errors import InputError
from aselect_runtime.sources import open_source, redact

WORD = st.text("abcXYZ019_.-", min_size=1, max_size=12)


def test_video_delivers_every_frame(clip: Path) -> None:
    with open_source(str(clip)) as source:
        frames = list(source)
    assert source.info.fps == 10
    assert [item.index for item in frames] == list(range(12))
    assert frames[0].frame.shape == (96, 128, 3)
    assert frames[3].label == "clip-000003"


def test_images_come_in_order_with_their_names(tmp_path: Path) -> None:
    for name, grey in (("b/two.png", 20), ("a.png", 10)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 9, 3), grey, np.uint8))
    with open_source(str(tmp_path)) as source:
        assert [(item.label, int(item.frame[0, 0, 0])) for item in source] == [("a", 10), ("b/two", 20)]
    with open_source(str(tmp_path / "a.png")) as source:
        assert [item.label for item in source] == ["a"]


def test_synthetic_street_obeys_its_options_and_repeats() -> None:
    uri = "synthetic://street?seed=3&size=48x64&frames=2&fps=5"
    runs = []
    for _ in range(2):
        with open_source(uri) as source:
            runs.append([item.frame for item in source])
    assert source.info.fps == 5
    assert [frame.shape for frame in runs[0]] == [(48, 64, 3)] * 2
    assert all(np.array_equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "uri",
    [
        "synthetic://moon",
        "synthetic://street?speed=3",
        "synthetic://street?size=48",
        "synthetic://street?size=0x0",
        "synthetic://street?frames=-1",
        "synthetic://street?fps=nan",
        "rtsp://camera/stream",
        "http://host/film.mp4",
        "csi://0",
        "v4l2src ! appsink",
        "/dev/video987",
        "no/such/file.mp4",
        "pyproject.toml",
    ],
)
def test_unusable_input_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError, match="expected"), open_source(uri):
        pass


def test_empty_and_corrupt_video(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 4096):
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{len(content)} bytes that do not open"), open_source(str(path)):
            pass


def test_truncated_video(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(40):
        writer.write(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(str(path)) as source, pytest.raises(InputError, match="truncated"):
        list(source)


def test_corrupt_image(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    with open_source(str(tmp_path)) as source, pytest.raises(InputError, match=r"bad\.png"):
        list(source)


def test_credentials_never_show() -> None:
    with pytest.raises(InputError) as caught:
        open_source("rtsp://user:hunter2@camera/stream?token=s3cret")
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(user=WORD, password=st.text("abc/:@?#%1", min_size=3, max_size=12), host=WORD)
def test_redact_hides_any_password(user: str, password: str, host: str) -> None:
    assert redact(f"rtsp://{user}:{password}@{host}/live") == f"rtsp://***@{host}/live"


@given(path=WORD)
def test_redact_leaves_paths_alone(path: str) -> None:
    assert redact(f"/videos/{path}.mp4") == f"/videos/{path}.mp4"
