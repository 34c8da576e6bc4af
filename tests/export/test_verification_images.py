"""Graphs are verified on images, never on their masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_export.verify import verification_frames
from aselect_runtime.records import Resize
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
