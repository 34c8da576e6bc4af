"""LabelMe's JSON files, one for each image, next to the images or in a separate folder."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_edge.data.classes import FILE, name_classes, read_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.masks import NO_LABEL
from aselect_edge.data.places import pairs, places
from aselect_edge.data.polygons import Drawn, Region, class_map, inside_polygons, with_background
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.frames import Frame
from aselect_runtime.media import some_of, warn_once

_SUFFIXES = frozenset({".json"})
Shape: TypeAlias = tuple[str, str, Any, str | None]
"""Label, kind, points and mask."""
_IGNORED = "__ignore__"
"""LabelMe's name for regions that are excluded from training."""


def _pairs(data: Path, split: str) -> list[tuple[Path, Path]]:
    """The images that have a JSON; the others are unlabelled and left out with a warning."""
    found = pairs(places(data, _SUFFIXES)[split], _SUFFIXES)
    without = [image for image, label in found if label is None]
    if len(without) == len(found):
        raise InputError(
            f"{without[0]}: got no JSON for this or any other image of {split}, expected one for each; add them"
        )
    if without:
        warn_once(f"{data}: left out {len(without)} images without a JSON: {some_of([path.name for path in without])}")
    return [(image, label) for image, label in found if label is not None]


def _read(data: Path, split: str) -> SegmentationData:
    """The classes are those of `classes.json`, or the labels in `train`'s files sorted by name, background first."""
    found = _pairs(data, split)
    of_train = found if "train" not in places(data, _SUFFIXES) else _pairs(data, "train")
    used = sorted({name for _, path in of_train for name, *_ in _shapes(path)} - {_IGNORED})
    given = [info.name for info in read_classes(data / FILE)[0]] if (data / FILE).is_file() else used
    names, places_of = with_background(given)
    indices = {**dict(zip(given, places_of, strict=True)), _IGNORED: NO_LABEL}

    def draw(path: Path) -> Frame:
        size = _size(path)
        return class_map(size, _regions(path, size, indices))

    classes = name_classes(names, of_train[0][1].parent if of_train else data)
    named_in = data / FILE if (data / FILE).is_file() else None
    return SegmentationData(tuple(found), classes, NO_LABEL, Drawn(draw), named_in)


def _regions(path: Path, size: tuple[int, int], indices: dict[str, int]) -> Iterator[Region]:
    for name, kind, points, mask in _shapes(path):
        if name not in indices:
            known = some_of([each for each in indices if each != _IGNORED])
            raise InputError(f"{path}: got the label {name!r}, expected one of train's: {known}; correct the label")
        yield indices[name], _where(kind, points, mask, size)


def _where(kind: str, points: Any, mask: str | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a shape, bool [H, W]; raises ValueError if it covers no area."""
    if kind == "polygon":
        return inside_polygons([[value for point in points for value in point]], size)
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"got the shape {kind!r}, expected polygon, rectangle, circle or mask")
    (x1, y1), (x2, y2) = points
    if kind == "rectangle":
        return inside_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]], size)
    if kind == "circle":  # its centre and a point on its edge
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        inside: NDArray[np.bool_] = (columns - x1) ** 2 + (rows - y1) ** 2 <= (x2 - x1) ** 2 + (y2 - y1) ** 2
        return inside
    return _pasted(mask, int(min(x1, x2)), int(min(y1, y2)), size)


def _pasted(mask: str | None, left: int, top: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A shape's own mask, a base64 PNG, placed at the corner of its box."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(mask or "", validate=True))) as image:
            width, height = image.size
            inside = top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]
            part = np.asarray(image.convert("L")) > 0 if inside else None
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError("got a mask that cannot be decoded") from error
    if part is None:
        raise ValueError(f"got a mask of {height}x{width} at {left}, {top}, beyond the image's edge")
    where = np.zeros(size, bool)
    where[top : top + height, left : left + width] = part
    return where


def _size(path: Path) -> tuple[int, int]:
    return _content(path, path.stat().st_mtime_ns)[0]


def _shapes(path: Path) -> Sequence[Shape]:
    """The shapes, in the order in which they are drawn."""
    return _content(path, path.stat().st_mtime_ns)[1]


@cache
def _content(path: Path, changed: int) -> tuple[tuple[int, int], Sequence[Shape]]:  # noqa: ARG001 - part of the key
    """(height, width) and the shapes; an image embedded in the file is not kept."""
    try:
        content: dict[str, Any] = json.loads(read_file(path).decode("utf-8-sig"))
        shapes = tuple(
            (str(s["label"]), str(s.get("shape_type") or "polygon"), s["points"], s.get("mask"))
            for s in content["shapes"]
        )
        return (int(content["imageHeight"]), int(content["imageWidth"])), shapes
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: not understood ({type(error).__name__} {error}), expected LabelMe's shapes, imageHeight and "
            "imageWidth; save it with LabelMe"
        ) from error


LABELME = Layout(
    "LabelMe",
    "a JSON for each image, beside it or in annotations/, with or without train/ and val/",
    lambda data: bool(places(data, _SUFFIXES)),
    lambda data: tuple(places(data, _SUFFIXES)),
    _read,
    lambda data, split: [image for image, _ in _pairs(data, split)],
)
