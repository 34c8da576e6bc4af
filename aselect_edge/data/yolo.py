"""YOLO's segmentation labels: a text file of normalised polygons per image, and the class names in `data.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from aselect_edge.data.classes import name_classes, refuse_count
from aselect_edge.data.intact import size_as_read
from aselect_edge.data.layout import Layout, split_of
from aselect_edge.data.lists import read_rows, read_text
from aselect_edge.data.masks import NO_LABEL
from aselect_edge.data.places import Place, pairs, places
from aselect_edge.data.polygons import Drawn, Region, class_map, inside_polygons, smallest_last, with_background
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame

_SUFFIXES = frozenset({".txt"})
_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_PLAIN = "classes.txt"
"""Label Studio's list of names."""


def _yaml(data: Path) -> Path | None:
    return next((data / name for name in _NAMES if (data / name).is_file()), None)


def _places(data: Path) -> dict[str, Place]:
    found = places(data, _SUFFIXES, beside=False)
    source = _yaml(data)
    for split, folder in _folders(source).items() if source else ():
        if split in found and found[split].images.resolve() != folder.resolve():
            raise InputError(
                f"{source}: got {folder} for {split}, expected the existing {found[split].images}; correct it"
            )
    return found


def _folders(source: Path) -> dict[str, Path]:
    """The existing folders of images that `data.yaml` names."""
    content = _content(source)
    root = source.parent / str(content.get("path") or ".")
    found = {}
    for key in ("train", "val", "valid", "test"):
        value = content.get(key)
        split = split_of(key)
        if not value or split is None:
            continue
        if not isinstance(value, str) or value.endswith(".txt"):
            raise InputError(
                f"{source}: got {value!r} for {key}, expected one folder of images; put the split in a folder"
            )
        named = PurePosixPath(value)
        climbed = PurePosixPath(*(part for part in named.parts if part != ".."))
        tried = (root / named, source.parent / named, source.parent / climbed)
        folder = next((path for path in tried if path.is_dir()), None)
        if folder:
            found[split] = folder / "images" if (folder / "images").is_dir() else folder
    return found


def _content(source: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(source))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).split("\n", 1)[0]
        raise InputError(f"{source}: not understood ({line}), expected YAML with names; correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: got no mapping, expected YAML with names; correct it")
    return content


def _class_names(data: Path) -> tuple[Path, list[str]]:
    """The class names in the order of their numbers; raises InputError if no file names them."""
    source = _yaml(data)
    if source is None and (data / _PLAIN).is_file():
        return data / _PLAIN, [row[0] for row in read_rows(data / _PLAIN, 1)]
    if source is None:
        raise InputError(f"{data}: got YOLO's labels without {_NAMES[0]}, expected the names of the classes; add it")
    content = _content(source)
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{source}: got names that are not a list, expected a name for each number from 0; correct it")
    refuse_count(source, "nc", content.get("nc"), len(names))
    if not all(isinstance(name, str | int | float) for name in names):
        raise InputError(f"{source}: got a name that is no text, expected a name for each number; correct it")
    return source, [str(name) for name in names]


def _read(data: Path, split: str) -> SegmentationData:
    source, given = _class_names(data)
    names, indices = with_background(given)
    place = _places(data)[split]
    found = pairs(place, _SUFFIXES)
    labels = dict(found)

    def draw(image: Path) -> Frame:
        label, size = labels[image], size_as_read(image)
        return class_map(size, smallest_last(_regions(label, size, indices)) if label else ())

    classes = name_classes(names, source)
    return SegmentationData(tuple((image, image) for image, _ in found), classes, NO_LABEL, Drawn(draw))


def _regions(label: Path, size: tuple[int, int], indices: list[int]) -> Iterable[Region]:
    """The polygons of a label file; raises InputError for a box, a class without name and points outside the image."""
    for (line,) in read_rows(label, 1):
        number, *values = line.split()
        try:
            points = [float(value) for value in values]
            at = int(number)
        except ValueError as error:
            raise InputError(f"{label}: got {line[:40]!r}, expected a class and points; correct it") from error
        if len(points) < 6 or len(points) % 2:
            what = "a box" if len(points) == 4 else f"{len(points)} numbers"
            raise InputError(
                f"{label}: got {what} after the class, expected a polygon x1 y1 x2 y2 x3 y3 …; export for segmentation"
            )
        if not 0 <= at < len(indices):
            raise InputError(
                f"{label}: got the class {at}, expected 0 to {len(indices) - 1}, the named classes; correct it"
            )
        if not all(-0.01 <= value <= 1.01 for value in points):
            raise InputError(
                f"{label}: got {line[:40]!r}, expected points from 0 to 1; normalise them by width and height"
            )
        scaled = [value * size[1 - position % 2] for position, value in enumerate(points)]
        yield indices[at], inside_polygons([scaled], size)


YOLO = Layout(
    "YOLO segmentation",
    "data.yaml and images/ and labels/ of text files, with train/ and val/ above or in them",
    lambda data: bool(places(data, _SUFFIXES, beside=False)),
    lambda data: tuple(_places(data)),
    _read,
    lambda data, split: [image for image, _ in pairs(_places(data)[split], _SUFFIXES)],
)
