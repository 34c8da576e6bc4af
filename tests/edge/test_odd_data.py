"""Data that are unusual and healthy: corrected labels, small bit depths, turned photographs, huge images, odd names."""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from aselect_edge.data import open_classification, open_segmentation
from aselect_edge.data.intact import orientation
from aselect_edge.data.survey import survey
from aselect_edge.planning.first_steps import first_steps
from aselect_edge.training.views import data_digest
from aselect_runtime.errors import InputError
from tests.edge.layouts import image, mask
from tests.edge.test_init import with_yolo


def grey_png(path: Path, rows: list[list[int]], bits: int) -> None:
    """A grey PNG whose samples have so few bits, written by hand because no library here writes 2 and 4."""
    per_byte = 8 // bits

    def packed(row: list[int]) -> bytes:
        padded = [*row, *[0] * (-len(row) % per_byte)]
        parts = [padded[at : at + per_byte] for at in range(0, len(padded), per_byte)]
        return bytes(sum(v << (8 - bits * (k + 1)) for k, v in enumerate(part)) for part in parts)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + packed(row) for row in rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))


def listed(data: Path, *names: str) -> None:
    """The lists of an export of masks whose colours are the classes."""
    for name in names:
        path = data / f"ImageSets/Segmentation/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")


def photograph(path: Path, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def test_a_corrected_outline_is_other_data(tmp_path: Path) -> None:
    """Of YOLO's sets a pair is the image twice: the labels are in another file."""
    with_yolo(tmp_path)
    before = data_digest(open_segmentation(tmp_path, "train"))
    label = next((tmp_path / "labels/train").iterdir())
    label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    assert data_digest(open_segmentation(tmp_path, "train")) != before


def test_a_corrected_table_of_colours_is_other_data(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photograph(tmp_path / f"JPEGImages/{split}.jpg", 4, 4)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        colours = np.zeros((4, 4, 3), np.uint8)
        colours[:2] = (128, 64, 128)
        Image.fromarray(colours).save(tmp_path / f"SegmentationClass/{split}.png")
    listed(tmp_path, "train", "val")
    table = tmp_path / "labelmap.txt"
    table.write_text("background:0,0,0::\nroad:128,64,128::\nwall:1,2,3::\n")
    before = data_digest(open_segmentation(tmp_path, "train"))
    table.write_text("background:0,0,0::\nroad:1,2,3::\nwall:128,64,128::\n")
    names = [info.name for info in open_segmentation(tmp_path, "train").classes]
    assert names == ["background", "road", "wall"]
    assert data_digest(open_segmentation(tmp_path, "train")) != before


@pytest.mark.parametrize(("bits", "white"), [(1, 1), (2, 3), (4, 15)])
def test_white_of_a_few_bits_is_not_taken_for_no_label(tmp_path: Path, bits: int, white: int) -> None:
    for split in ("train", "val"):
        photograph(tmp_path / split / "images/a.jpg", 1, 4)
        grey_png(tmp_path / split / "labels/a.png", [[0, 0, 0, 0]], bits)
    names = [{"id": index, "name": f"c{index}"} for index in range(16)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": names}))
    assert open_segmentation(tmp_path, "train").label(0).tolist() == [[0, 0, 0, 0]]
    grey_png(tmp_path / "train/labels/a.png", [[0, white, 0, white]], bits)
    with pytest.raises(InputError, match=rf"a\.png: got a mask of {bits} bits, whose white may be no label"):
        open_segmentation(tmp_path, "train").label(0)


def test_the_size_of_a_turned_photograph_is_as_it_is_seen(tmp_path: Path) -> None:
    for index in range(4):
        path = tmp_path / f"train/{'ab'[index % 2]}/{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (400, 300)).save(path, exif=exif)
    found = survey(tmp_path)
    assert found.train is not None
    assert found.train.sizes == ((400, 300),)
    imgsz = first_steps(tmp_path, estimate=False).plan.imgsz
    assert imgsz is not None
    assert imgsz[0] > imgsz[1]


def test_pairs_of_a_stereo_camera_are_images_and_what_looks_like_a_mask_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "train/a/0.jpg",
        "train/a/0_l.jpg",
        "train/b/1.jpg",
        "train/b/1_mask.jpg",
        "val/a/2.jpg",
        "val/b/3.jpg",
    ):
        photograph(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        names = [path.name for path in open_classification(tmp_path, "train").paths]
    assert names == ["0.jpg", "0_l.jpg", "1.jpg"]
    assert "left out what looks like masks of other images: 1_mask.jpg" in caplog.text


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    for index in range(24):
        path = tmp_path / f"{'ab'[index % 2]}/{index}.jpg"
        photograph(path)
        path.rename(os.fsdecode(os.fsencode(path)[: -len(".jpg")] + b"\xe9.jpg"))
    train = open_classification(tmp_path, "train")
    assert 12 <= len(train) < 24
    assert len(data_digest(train)) == 64


def test_a_list_of_classes_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("jay", "wren"):
            photograph(tmp_path / split / name / "0.jpg")
    classes = [{"id": index, "name": name} for index, name in enumerate(("wren", "jay"))]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}), encoding="utf-8-sig")
    assert [info.name for info in open_classification(tmp_path, "train").classes] == ["wren", "jay"]


def test_a_grey_mask_may_have_an_alpha_channel_beside_a_labelmap(tmp_path: Path) -> None:
    listed(tmp_path, "train", "val")
    for split in ("train", "val"):
        photograph(tmp_path / f"JPEGImages/{split}.jpg", 2, 3)
    (tmp_path / "SegmentationClass").mkdir()
    values = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    Image.fromarray(np.stack([values, np.full_like(values, 255)], 2), "LA").save(
        tmp_path / "SegmentationClass/train.png"
    )
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nroad:128,64,128::\n")
    assert open_segmentation(tmp_path, "train").label(0).tolist() == values.tolist()


def test_an_aerial_image_larger_than_pillow_s_limit_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "aerial.png"
    Image.new("1", (14000, 13500)).save(path)
    assert orientation(path) == 1


@pytest.mark.parametrize("names", [("mask", "no_mask"), ("bus", "train")])
def test_folders_that_may_be_classes_get_advice_that_works(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for number in range(12):
            photograph(tmp_path / "data" / name / f"{number}.jpg")
    for told in (survey(tmp_path / "data").problems[0], _refused(tmp_path / "data")):
        assert "is a class" in told
        assert f"move them into {tmp_path / 'data/train'}" in told
    (tmp_path / "moved").mkdir()
    (tmp_path / "data").rename(tmp_path / "moved/train")
    assert [info.name for info in open_classification(tmp_path / "moved", "train").classes] == sorted(names)


def _refused(data: Path) -> str:
    with pytest.raises(InputError) as refused:
        open_classification(data, "train")
    return str(refused.value)


def test_images_beside_the_folders_of_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        for name in ("jay", "wren"):
            photograph(tmp_path / split / name / "1.jpg")
    photograph(tmp_path / "train/loose.jpg")
    assert len(open_classification(tmp_path, "train")) == 2
    assert "left out 1 images beside the folders of classes: loose.jpg" in caplog.text


def test_an_empty_folder_of_a_class_matters_in_train_only(tmp_path: Path) -> None:
    for name in ("jay", "wren"):
        photograph(tmp_path / "train" / name / "1.jpg")
        (tmp_path / "val" / name).mkdir(parents=True)
    photograph(tmp_path / "val/jay/1.jpg")
    assert open_classification(tmp_path, "val").labels == (0,)
    (tmp_path / "train/crow").mkdir()
    with pytest.raises(InputError, match="crow: got no image, expected at least one; add images or remove the folder"):
        open_classification(tmp_path, "train")


@pytest.mark.parametrize(("other", "warned"), [("photos", True), ("elsewhere", False)])
def test_masks_that_are_taken_for_a_class_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str, warned: bool
) -> None:
    for split in ("train", "val"):
        for number in range(3):
            photograph(tmp_path / split / "Masks" / f"{number}.png", number + 4)
            photograph(tmp_path / split / other / f"{'b' if not warned else ''}{number}.jpg", number + 4)
    assert len(open_classification(tmp_path, "train").classes) == 2
    assert (f"took Masks and {other} for two classes" in caplog.text) == warned


def test_two_folders_of_masks_beside_the_images_are_refused(tmp_path: Path) -> None:
    for number in range(12):
        image(tmp_path / "train" / f"{number}.jpg")
        for folder in ("train_masks", "train_labels"):
            mask(tmp_path / folder / f"{number}.png")
    with pytest.raises(InputError, match=r"train: got the labels train_labels, train_masks beside it, expected one"):
        open_segmentation(tmp_path, "train")


def test_two_lists_of_a_split_are_refused(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "images" / f"{number}.jpg")
        mask(tmp_path / "masks" / f"{number}.png")
    for name, numbers in (("train", "0123"), ("val", "45"), ("valid", "3")):
        (tmp_path / f"{name}.txt").write_text("\n".join(numbers))
    with pytest.raises(InputError, match=r"valid\.txt: got a second list of the split val next to val\.txt"):
        open_segmentation(tmp_path, "val")


def test_a_folder_is_the_same_data_by_its_name_and_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        image(tmp_path / "roads" / f"{number}.jpg")
        mask(tmp_path / "roads_masks" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "roads")
    assert len(open_segmentation(Path(), "train")) == len(open_segmentation(tmp_path / "roads", "train")) > 0
