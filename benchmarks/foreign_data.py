"""Three public data sets that the included models have not seen, from clones of their repositories.

    git clone https://github.com/cwfid/dataset CLONES/crops
    git clone https://github.com/cuilimeng/CrackForest-dataset CLONES/cracks
    git clone https://github.com/daniele-gilio/Machine-Learning-Class CLONES/flowers

Crops and weeds (Haug and Ostermann, ECCV workshops 2014; 60 images), cracks in roads (Shi et al., 2016; 118 images) and
twelve kinds of flowers (from Nilsback and Zisserman's sets; 960 images of 224x224). All three are for research only, so
that nothing of them is included here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from aselect_runtime.errors import InputError

SOURCES = {"crops": "images", "cracks": "seg", "flowers": "lab3/flowers"}
"""What each clone holds, by name."""
CROP_COLOURS = {(0, 255, 0): 1, (0, 0, 255): 2}
"""BGR of an annotation -> crop, weed; all else is soil."""


def prepare(clones: Path, out: Path) -> None:
    """Write each set as a labelled folder `out/NAME` in the simplest layout; one that is there already is kept.

    Raises InputError for a clone that is missing.
    """
    for name, inside in SOURCES.items():
        if (out / name).is_dir():
            continue
        if not (clones / name / inside).is_dir():
            raise InputError(
                f"{clones / name / inside}: no such folder, expected a clone; see benchmarks/foreign_data.py"
            )
        part = out / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        {"crops": _crops, "cracks": _cracks, "flowers": _flowers}[name](clones / name, part)
        part.rename(out / name)


def _crops(clone: Path, out: Path) -> None:
    """The authors' split (an image that they list in both is test); every fifth image of train is val."""
    split = yaml.safe_load((clone / "train_test_split.yaml").read_text(encoding="utf-8"))
    test = set(split["test"])
    train = [index for index in split["train"] if index not in test]
    splits = {"train": [n for k, n in enumerate(train) if k % 5], "val": train[::5], "test": sorted(test)}
    for name, indices in splits.items():
        for index in indices:
            colours = _read(clone / f"annotations/{index:03}_annotation.png")
            label = np.zeros(colours.shape[:2], np.uint8)
            for colour, value in CROP_COLOURS.items():
                label[np.all(colours == colour, axis=2)] = value
            _write(out / name, f"{index:03}", _read(clone / f"images/{index:03}_image.png"), label)
    _classes(out, ["soil", "crop", "weed"])


def _cracks(clone: Path, out: Path) -> None:
    """In their order, of every five three for train, one for val, one for test: neighbours are of the same street."""
    for k, path in enumerate(sorted((clone / "seg").glob("*.seg"))):
        split = ("train", "train", "train", "val", "test")[k % 5]
        _write(out / split, path.stem, _read(clone / f"image/{path.stem}.jpg"), crack_map(path.read_text()))
    _classes(out, ["road", "crack"])


def crack_map(text: str) -> NDArray[np.uint8]:
    """The label map (H, W) of a `.seg` file: lines of segment, row, first and last column after the size.

    Segment 1 is crack; higher ones are islands of road that a crack encloses.
    """
    header, _, runs = text.partition("data\n")
    words = dict(line.split(maxsplit=1) for line in header.splitlines() if " " in line)
    label = np.zeros((int(words["height"]), int(words["width"])), np.uint8)
    for line in runs.splitlines():
        segment, row, first, last = (int(word) for word in line.split())
        label[row, first : last + 1] = segment == 1
    return label


def _flowers(clone: Path, out: Path) -> None:
    """The clone's split; of train, every fifth image of a kind is val."""
    for split in ("train", "test"):
        for folder in sorted((clone / SOURCES["flowers"] / split).glob("*")):
            for k, path in enumerate(sorted(folder.glob("*.jpg"))):
                target = out / ("val" if split == "train" and k % 5 == 0 else split) / folder.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    if image is None:
        raise InputError(f"{path}: no image could be read, expected one; clone the repository again")
    return np.asarray(image, np.uint8)


def _write(split: Path, name: str, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    for folder, pixels in (("images", image), ("labels", label)):
        (split / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(split / folder / f"{name}.png"), pixels)


def _classes(out: Path, names: list[str]) -> None:
    content = {"classes": [{"id": index, "name": name} for index, name in enumerate(names)]}
    out.joinpath("classes.json").write_text(json.dumps(content), encoding="utf-8")
