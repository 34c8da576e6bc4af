"""Data as people have them, and what each image's labels are, written down by hand."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.edge.layouts import VALUES, Make, image, mask, matlab, text

PLAIN = [0, 1, 2, 255, 0, 1]
"""The first row of VALUES."""
BINARY = np.array([[0, 255, 255, 0, 0, 255]] * 4, np.uint8)
HALVES = [0, 1, 1, 0, 0, 1]
"""BINARY, read as two classes."""
BOX = [0, 1, 1, 1, 0, 0]
"""The second row of a class map with a region from x = 1 to 4 and y = 1 to 3."""
RING = [1, 1, 4, 1, 4, 3, 1, 3]


@dataclass(frozen=True)
class Case:
    """A layout and the row of the first class map that is looked at; or the fault that is named."""

    make: Make
    row: list[int] | None = None
    train: int = 0
    """How many images train has."""
    at: int = 0
    """Which row."""
    fault: str = ""
    names: tuple[str, ...] = ()
    """The first classes, where the layout names them."""


def tree(
    *splits: str, images: str = "{}/images", masks: str = "{}/masks", ends: str = ".png", values: Any = VALUES
) -> Make:
    """Two images in train and one in every other split, and their masks."""

    def make(data: Path) -> None:
        for split in splits:
            for number in range(2 if split.lower().startswith("train") else 1):
                image(data / images.format(split) / f"{split}{number}.jpg")
                mask(data / masks.format(split) / f"{split}{number}{ends}", values)

    return make


def flat(values: Any = VALUES, ends: str = ".png", count: int = 4) -> Make:
    """images/ and masks/."""

    def make(data: Path) -> None:
        for number in range(count):
            image(data / f"images/{number}.jpg")
            mask(data / f"masks/{number}{ends}", values)

    return make


def both(*makes: Make) -> Make:
    return lambda data: [make(data) for make in makes]


def named(*names: str, **more: object) -> Make:
    entries = [{"id": number, "name": name} for number, name in enumerate(names)]
    return lambda data: (data / "classes.json").write_text(json.dumps({"classes": entries, **more}), "utf-8-sig")


def lines(name: str, *content: str, encoding: str = "utf-8") -> Make:
    def make(data: Path) -> None:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("\n".join(content) + "\n", encoding)

    return make


def instances(path: str, images: str, outline: object = None, count: int = 2, name: str = "{}.jpg") -> Make:
    """COCO's JSON of so many images, with one object each, of the second of two categories."""

    def make(data: Path) -> None:
        for number in range(count):
            image(data / images / f"{number}.jpg")
        content = {
            "images": [{"id": n, "file_name": name.format(n), "height": 4, "width": 6} for n in range(count)],
            "categories": [{"id": 3, "name": "car"}, {"id": 8, "name": "dog"}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 3, "segmentation": [RING] if outline is None else outline}
                for n in range(count)
            ],
        }
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_text(json.dumps(content))

    return make


NORMALISED = " ".join(f"{value / (6, 4)[at % 2]:.6f}" for at, value in enumerate(RING))


def yolo(images: str, labels: str, line: str = f"0 {NORMALISED}") -> Make:
    """YOLO's labels of two images, one polygon each."""

    def make(data: Path) -> None:
        for number in range(2):
            image(data / images / f"{number}.jpg")
            text(data / labels / f"{number}.txt", [line])

    return make


def labelme(images: str, labels: str, shape: str = "polygon", points: object = None, **more: object) -> Make:
    corners = [[1, 1], [4, 1], [4, 3], [1, 3]] if points is None else points
    content = {
        "version": "5.5.0",
        "shapes": [{"label": "car", "points": corners, "shape_type": shape, **more}],
        "imageHeight": 4,
        "imageWidth": 6,
    }

    def make(data: Path) -> None:
        for number in range(2):
            image(data / images / f"{number}.jpg")
            (data / labels).mkdir(parents=True, exist_ok=True)
            (data / labels / f"{number}.json").write_text(json.dumps(content))

    return make


def png_text(values: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def photograph(path: Path, turn: int, stored: tuple[int, int]) -> None:
    """A JPEG of so many rows and columns as stored, which EXIF turns when it is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.full((*stored, 3), 9, np.uint8)).save(path, exif=exif)


def turned(turn: int, stored: tuple[int, int], values: Any) -> Make:
    def make(data: Path) -> None:
        for number in range(2):
            photograph(data / f"train/images/{number}.jpg", turn, stored)
            mask(data / f"train/masks/{number}.png", values)
        tree("val")(data)

    return make


def jpeg_masks(values: Any) -> Make:
    big = np.asarray(values, np.uint8).repeat(16, 0).repeat(16, 1)

    def make(data: Path) -> None:
        for number in range(4):
            (data / "images").mkdir(exist_ok=True)
            (data / "masks").mkdir(exist_ok=True)
            cv2.imwrite(str(data / f"images/{number}.jpg"), np.full((*big.shape, 3), 9, np.uint8))
            cv2.imwrite(str(data / f"masks/{number}_mask.jpg"), big)

    return make


def matlab_masks(data: Path) -> None:
    for number in range(4):
        image(data / f"images/{number}.jpg")
        matlab(data / f"masks/{number}.mat", mask=VALUES, version=np.array([[7]]))


def sbd(data: Path) -> None:
    for number in range(4):
        image(data / f"img/{number}.jpg")
        matlab(data / f"cls/{number}.mat", GTcls={"Segmentation": VALUES, "Boundaries": np.zeros((3, 1))})


def one_bit(data: Path) -> None:
    flat()(data)
    for path in (data / "masks").iterdir():
        Image.fromarray(BINARY).convert("1").save(path)


def junk(data: Path) -> None:
    flat()(data)
    for name in (
        ".thumbnails/0.png",
        ".ipynb_checkpoints/0-checkpoint.jpg",
        "__MACOSX/._0.jpg",
        "._1.jpg",
        "@eaDir/0.jpg",
    ):
        image(data / "images" / name)
        mask(data / "masks" / name)
    (data / "images/4.jpg").write_bytes(b"")
    mask(data / "masks/4.png")


def linked(data: Path) -> None:
    flat()(data / "elsewhere")
    (data / "set").mkdir()
    for name in ("images", "masks"):
        (data / "set" / name).symlink_to(data / "elsewhere" / name)
    (data / "elsewhere/images/again").symlink_to(data / "elsewhere/images")


BLURRED = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(4, 0)
WHITE_ON_BLACK = np.hstack([np.zeros((4, 400), np.uint8), np.full((4, 400), 255, np.uint8), BLURRED])


def blurred(data: Path) -> None:
    for number in range(4):
        (data / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(data / f"images/{number}.jpg"), np.full((*WHITE_ON_BLACK.shape, 3), 9, np.uint8))
        mask(data / f"masks/{number}.png", WHITE_ON_BLACK)
