"""COCO's panoptic annotations, things and stuff: a PNG of segment ids per image, a JSON of their categories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed
from aselect_edge.data.masks import NO_LABEL, open_png
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.frames import Frame

_YEARS = ("2017", "2018", "")


@dataclass(frozen=True)
class _Segments:
    """Reads PNGs whose colours are segment ids, R + 256·G + 65536·B; 0 means no label."""

    classes: Mapping[str, Mapping[int, int]]
    """File name -> segment id -> class."""

    def __call__(self, path: Path) -> Frame:
        mode, colours = open_png(path)
        if mode != "RGB":
            raise InputError(f"{path}: got a {mode} image, expected RGB, whose colours are segment ids; replace it")
        ids, places = np.unique(colours.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
        known = {0: NO_LABEL, **self.classes[path.name]}
        unknown = [int(one) for one in ids if int(one) not in known]
        if unknown:
            raise InputError(
                f"{path}: got the segment {unknown[0]}, expected one of the {len(known) - 1} that its JSON lists; "
                "download both again"
            )
        table: NDArray[np.uint8] = np.array([known[int(one)] for one in ids], np.uint8)
        return table[places].reshape(colours.shape[:2])


def _source(data: Path, split: str) -> Path | None:
    paths = (data / "annotations" / f"panoptic_{split}{year}.json" for year in _YEARS)
    return next((path for path in paths if path.is_file()), None)


def _of_train(data: Path) -> list[tuple[int, str]]:
    """Number and name of train's categories, which decide the order of the classes in every split; [] without it."""
    source = _source(data, "train")
    if source is None:
        return []
    return _categories(json.loads(read_file(source).decode()))


def _categories(content: dict[str, Any]) -> list[tuple[int, str]]:
    return sorted((int(c["id"]), str(c["name"])) for c in content["categories"])


def _read(data: Path, split: str) -> SegmentationData:
    source = _source(data, split)
    assert source is not None
    try:
        content: dict[str, Any] = json.loads(read_file(source).decode())
        categories = (_of_train(data) if split != "train" else []) or _categories(content)
        numbers = {category: index for index, (category, _) in enumerate(categories)}
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        rows = sorted((names[a["image_id"]], str(a["file_name"])) for a in content["annotations"])
        segments = {
            PurePosixPath(str(a["file_name"])).name: {
                int(s["id"]): numbers[s["category_id"]] for s in a["segments_info"]
            }
            for a in content["annotations"]
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{source}: not understood ({type(error).__name__} {error}), expected COCO's images, annotations and "
            "categories; download it again"
        ) from error
    classes = name_classes([name for _, name in categories], source)
    masks = next((f for f in (source.with_suffix(""), data / source.stem) if f.is_dir()), source.with_suffix(""))
    images = listed(data / source.stem.removeprefix("panoptic_"), (image for image, _ in rows), source)
    labels = listed(masks, (label for _, label in rows), source)
    return SegmentationData(tuple(zip(images, labels, strict=True)), classes, NO_LABEL, _Segments(segments))


COCO_PANOPTIC = Layout(
    "COCO panoptic",
    "annotations/panoptic_train2017.json, annotations/panoptic_train2017/ and train2017/",
    lambda data: any(_source(data, split) for split in ("train", "val")),
    lambda data: tuple(split for split in ("train", "val") if _source(data, split)),
    _read,
)
