"""Graphs are verified on images, never on their masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_export.verify import verification_frames
from aselect_runtime.errors import InputError
from aselect_runtime.records import Resize
from aselect_runtime.scenes import Street
from tests.edge.layouts import Make, cvat, flat_masks, image, voc
from tests.edge.layouts.cases import instances, tree, yolo

LAYOUTS: tuple[Make, ...] = (
    voc,
    cvat,
    flat_masks,
    tree("train", "val", "test", images="images/{}", masks="masks/{}"),
    tree("train", "val", images="{}", masks="{}", ends="_mask.png"),
    instances("train/_annotations.coco.json", "train"),
    yolo("images", "labels"),
)


@pytest.mark.parametrize("make", LAYOUTS)
def test_every_verification_frame_is_an_image(tmp_path: Path, make: Make) -> None:
    if make is LAYOUTS[-1]:
        (tmp_path / "classes.txt").write_text("car\n")
    make(tmp_path)
    frames, _ = verification_frames(tmp_path, 8, (4, 6), Resize())
    assert (abs(frames.astype(int) - 9) <= 2).all()  # what `image` writes; masks hold 0, 1, 2 and 255


def test_of_a_plain_folder_all_images_are_taken(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / f"{number}.jpg")
    assert verification_frames(tmp_path, 3, (4, 6), Resize())[1] == f"verified on 3 images of {tmp_path}"


@pytest.mark.parametrize(("black", "still"), [(0, 20), (2, 5), (3, 1)])
def test_a_video_of_one_scene_verifies_every_frame_of_a_graph(tmp_path: Path, black: int, still: int) -> None:
    """A fixed camera sees one scene, after some black; as of a folder with one image, it is repeated."""
    scene = Street(0, 48, 64).frame(40)[0]
    video = _video(tmp_path / "video.mp4", [np.zeros_like(scene)] * black + [scene] * still)
    frames, note = verification_frames(video, 8, (24, 32), Resize())
    assert frames.shape == (8, 24, 32, 3)
    assert (frames == frames[0]).all()
    assert abs(frames[0].astype(int) - cv2.resize(scene, (32, 24), interpolation=cv2.INTER_AREA)).mean() < 10
    assert note == f"verified on 1 frames of {video}"


def test_a_video_without_content_is_refused(tmp_path: Path) -> None:
    video = _video(tmp_path / "video.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match=r"video\.mp4: got only frames of a single colour"):
        verification_frames(video, 8, (24, 32), Resize())


def _video(path: Path, frames: list[np.ndarray]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path
