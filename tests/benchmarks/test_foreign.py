"""The foreign data sets as the benchmark writes them, from small clones of the same layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.data import open_classification, open_segmentation
from aselect_runtime.errors import InputError
from benchmarks.foreign_data import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign")
    crops, cracks, flowers = (root / "clones" / name for name in ("crops", "cracks", "flowers"))
    for folder in (crops / "images", crops / "annotations", cracks / "seg", cracks / "image"):
        folder.mkdir(parents=True)
    (crops / "train_test_split.yaml").write_text("train: [1, 2, 3, 4]\ntest: [4, 5]\n")
    for index in range(1, 6):
        colours = np.zeros((4, 6, 3), np.uint8)
        colours[0], colours[1, :index] = (0, 255, 0), (0, 0, 255)
        cv2.imwrite(str(crops / f"annotations/{index:03}_annotation.png"), colours)
        cv2.imwrite(str(crops / f"images/{index:03}_image.png"), colours)
    runs = "0 0 0 2\n1 0 3 4\n0 1 0 0\n1 1 1 1\n2 1 2 3\n1 1 4 4\n"
    for index in range(1, 11):
        (cracks / f"seg/{index:03}.seg").write_text(f"image a.jpg\nwidth 5\nheight 2\nsegments 3\ndata\n{runs}")
        cv2.imwrite(str(cracks / f"image/{index:03}.jpg"), np.zeros((2, 5, 3), np.uint8))
    for split, count in (("train", 10), ("test", 3)):
        for kind in ("daisy", "iris"):
            folder = flowers / "lab3/flowers" / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(folder / f"image_{index:04}.jpg"), np.zeros((8, 8, 3), np.uint8))
    prepare(root / "clones", root / "data")
    return root / "data"


def test_crops_have_three_classes_and_no_image_in_two_splits(data: Path) -> None:
    splits = {name: open_segmentation(data / "crops", name) for name in ("train", "val", "test")}
    assert [info.name for info in splits["train"].classes] == ["soil", "crop", "weed"]
    names = {split: {path.stem for path in (data / "crops" / split / "images").iterdir()} for split in splits}
    assert names == {"train": {"002", "003"}, "val": {"001"}, "test": {"004", "005"}}
    expected = [[1] * 6, [2] * 5 + [0], [0] * 6, [0] * 6]
    assert splits["test"].label(1).tolist() == expected


def test_a_crack_is_its_first_segment_and_what_it_encloses_is_road(data: Path) -> None:
    test = open_segmentation(data / "cracks", "test")
    assert len(test) == 2
    assert test.label(0).tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 1]]


def test_every_fifth_training_image_of_a_kind_of_flower_is_val(data: Path) -> None:
    counts = {name: len(open_classification(data / "flowers", name)) for name in ("train", "val", "test")}
    assert counts == {"train": 16, "val": 4, "test": 6}


def test_a_missing_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crops/images: no such folder, expected a clone"):
        prepare(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()
