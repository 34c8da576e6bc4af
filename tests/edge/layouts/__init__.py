"""A tiny fake of each data set's layout, written as the real one unpacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

ROWS, COLUMNS = 4, 6
Make = Callable[[Path], object]
VALUES = np.array([[0, 1, 2, 255, 0, 1]] * ROWS, np.uint8)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((ROWS, COLUMNS, 3), 9, np.uint8))


def mask(path: Path, values: Any = VALUES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def text(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def matlab(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def cells(values: Iterable[str]) -> Any:
    """A MATLAB cell array (N, 1) of strings."""
    return np.array([[value] for value in values], object)


def flat_masks(data: Path) -> None:
    for number in range(40):
        image(data / f"images/{number}.jpg")
        mask(data / f"masks/{number}.png", VALUES * (VALUES == 255) + 3 * VALUES * (VALUES < 255))


def voc(data: Path) -> None:
    for split, name in (("train", "2007_000032"), ("val", "2007_000033")):
        text(data / f"ImageSets/Segmentation/{split}.txt", [name])
        image(data / f"JPEGImages/{name}.jpg")
        palette = Image.fromarray(VALUES * (VALUES == 255) + 20 * (VALUES == 2).astype(np.uint8)).convert("L")
        indexed = Image.frombytes("P", palette.size, palette.tobytes())
        indexed.putpalette([value * 7 % 256 for value in range(768)])
        (data / "SegmentationClass").mkdir(exist_ok=True)
        indexed.save(data / f"SegmentationClass/{name}.png")


COLOURS = np.array([[0, 0, 0], [250, 50, 83], [50, 183, 250]], np.uint8)
LABELMAP = (
    "# label:color_rgb:parts:actions",
    *(f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(("background", "kerb stone", "road"), COLOURS, strict=True)),
)
INDICES = np.array([[0, 1, 2, 2, 0, 1]] * ROWS)


def cvat(data: Path) -> None:
    text(data / "labelmap.txt", LABELMAP)
    names = [f"clip/frame {number:02d}" for number in range(40)]
    text(data / "ImageSets/Segmentation/default.txt", [f'"{name}"' for name in names])
    for name in names:
        image(data / f"JPEGImages/{name}.jpg")
        mask(data / f"SegmentationClass/{name}.png", COLOURS[INDICES])


def coco(data: Path) -> None:
    categories = [{"id": 92, "name": "banner", "isthing": 0}, {"id": 1, "name": "person", "isthing": 1}]
    for split, name in (("train", "000000000009"), ("val", "000000000139")):
        ids = np.zeros((ROWS, COLUMNS), np.uint32)
        ids[0], ids[1], ids[2] = 8_921_000, 70_000, 258
        image(data / f"{split}2017/{name}.jpg")
        mask(data / f"annotations/panoptic_{split}2017/{name}.png", np.stack([ids >> s & 255 for s in (0, 8, 16)], 2))
        segments = [{"id": i, "category_id": c} for i, c in ((8_921_000, 92), (70_000, 1), (258, 1))]
        content = {
            "images": [{"id": 9, "file_name": f"{name}.jpg"}],
            "annotations": [{"image_id": 9, "file_name": f"{name}.png", "segments_info": segments}],
            "categories": categories,
        }
        (data / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(content))


def ade20k(data: Path) -> None:
    names = ["screen door, screen", "wall", "screen, silver screen", "bed "]
    rows = [f"{number}\t0.1\t7\t1\t{name}" for number, name in enumerate(names, 1)]
    text(data / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tName", *rows])
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        image(data / f"images/{split}/{name}.jpg")
        mask(data / f"annotations/{split}/{name}.png", VALUES % 255 * 2)


def cityscapes(data: Path) -> None:
    for split in ("train", "val"):
        image(data / f"leftImg8bit/{split}/aachen/aachen_000000_000019_leftImg8bit.png")
        mask(data / f"gtFine/{split}/aachen/aachen_000000_000019_gtFine_labelIds.png", VALUES % 255 * 13 + 7)


def birds(data: Path) -> None:
    keys = {f"0000-{number:02d}": number % 3 for number in range(60)}
    text(data / "classes.txt", ["0 Birds", "5 Ducks, Geese", "295 Eider", "296 Eider", "1010 Wren (dark)"])
    text(data / "hierarchy.txt", ["5 0", "295 5", "296 0", "1010 0"])
    text(data / "images.txt", [f"{key} 0{label}/{key}.jpg" for key, label in keys.items()])
    text(data / "image_class_labels.txt", [f"{key} {(295, 296, 1010)[label]}" for key, label in keys.items()])
    text(data / "train_test_split.txt", [f"{key} {int(key < '0000-50')}" for key in keys])
    for key, label in keys.items():
        image(data / f"images/0{label}/{key}.jpg")


def flowers(data: Path) -> None:
    matlab(data / "imagelabels.mat", labels=np.array([[77, 1, 102, 5]], np.uint8))
    matlab(data / "setid.mat", trnid=[[3, 1]], valid=[[2]], tstid=[[4]])
    for number in range(1, 5):
        image(data / f"jpg/image_{number:05d}.jpg")


def dogs(data: Path) -> None:
    breeds = ("n02085620-Chihuahua", "n02110806-basenji")
    for split, count in (("train", 30), ("test", 2)):
        names = [f"{breeds[number % 2]}/{split}_{number}.jpg" for number in range(count)]
        matlab(data / f"{split}_list.mat", file_list=cells(names), labels=np.ones((count, 1)))
        for name in names:
            image(data / "Images" / name)


def cars(data: Path) -> None:
    names = np.array(["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"], object)[None]
    matlab(data / "devkit/cars_meta.mat", class_names=names)
    where = {"train": ("devkit/cars_train_annos.mat", 30), "test": ("cars_test_annos_withlabels.mat", 1)}
    for split, (source, count) in where.items():
        rows = np.zeros((1, count), [("bbox_x1", object), ("class", object), ("fname", object)])
        for number in range(count):
            rows[0, number] = (1, 1 + number % 2, f"{number:05d}.jpg")
            image(data / f"cars_{split}/{number:05d}.jpg")
        matlab(data / source, annotations=rows)


def aircraft(data: Path) -> None:
    text(data / "data/variants.txt", ["F/A-18", "DC 10"])
    for number, split in enumerate(("train", "val", "test")):
        text(data / f"data/images_variant_{split}.txt", [f"102579{number} DC 10", f"002579{number} F/A-18"])
        for name in (f"102579{number}", f"002579{number}"):
            image(data / f"data/images/{name}.jpg")


def flat_classes(data: Path) -> None:
    for number in range(40):
        image(data / ("wren", "jay")[number % 2] / f"{number // 2}.jpg")
