"""COCO's instances: one JSON of polygons or run lengths for a split, as COCO, CVAT, Roboflow and others write it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import FOLDERS, Layout, split_folders, split_of
from aselect_edge.data.masks import NO_LABEL
from aselect_edge.data.places import IMAGES
from aselect_edge.data.polygons import (
    Drawn,
    Region,
    class_map,
    inside_polygons,
    inside_runs,
    smallest_last,
    with_background,
)
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.frames import Frame
from aselect_runtime.media import some_of, warn_once

_ALONE = ("_annotations.coco", "instances", "instances_default", "annotations", "coco", "result", "labels")
"""Names, without .json and in any case, of a JSON file that is the only one in a folder."""
_PREFIX = "instances_"


@dataclass(frozen=True)
class _Content:
    """The parsed content of one JSON file."""

    categories: tuple[tuple[int, str], ...]
    """(id, name), sorted by id."""
    images: tuple[tuple[str, tuple[int, int]], ...]
    """(name, (height, width)), sorted by name."""
    regions: Mapping[str, Sequence[tuple[int, Any]]]
    """Image name -> category id and segmentation of each of its objects."""


def _sources(data: Path) -> dict[str, Path]:
    """The JSON of each split; a single one for the whole data set counts as `train`."""
    found = {split: path for split, folder in split_folders(data).items() if (path := _alone(folder))}
    for folder in (data / "annotations", data):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            name = path.stem.removeprefix(_PREFIX).rstrip("0123456789").rstrip("_-")
            split = split_of(name)
            if split and (path.stem.startswith(_PREFIX) or folder.name == "annotations"):
                found.setdefault(split, path)
    if not found:
        whole = _alone(data / "annotations") or _alone(data)
        return {"train": whole} if whole else {}
    return {split: found[split] for split in FOLDERS if split in found}


def _alone(folder: Path) -> Path | None:
    there = {path.stem.lower(): path for path in sorted(folder.glob("*.json"))} if folder.is_dir() else {}
    return next((there[name] for name in _ALONE if name in there), None)


def _read(data: Path, split: str) -> SegmentationData:
    sources = _sources(data)
    content = _content(sources[split])
    first = content if split == "train" or "train" not in sources else _content(sources["train"])
    names, indices = with_background([name for _, name in first.categories])
    index_of = {name: index for (_, name), index in zip(first.categories, indices, strict=True)}
    strange = [name for _, name in content.categories if name not in index_of]
    if strange:
        raise InputError(
            f"{sources[split]}: got the category {strange[0]!r}, expected one of train's categories; add it there"
        )
    classes = name_classes(names, sources["train"] if "train" in sources else sources[split])
    numbers = {category: index_of[name] for category, name in content.categories}
    paths = _paths(data, sources[split], split, [name for name, _ in content.images])
    sizes = dict(zip(paths, (size for _, size in content.images), strict=True))
    regions = {path: content.regions.get(name, ()) for path, (name, _) in zip(paths, content.images, strict=True)}
    source = sources[split]

    def draw(path: Path) -> Frame:
        try:
            return class_map(sizes[path], smallest_last(_drawn(regions[path], sizes[path], numbers)))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"{source}: {error or type(error).__name__} ({path.name}), expected outlines in the image; correct it"
            ) from error

    return SegmentationData(tuple((path, path) for path in paths), classes, NO_LABEL, Drawn(draw))


def _drawn(regions: Sequence[tuple[int, Any]], size: tuple[int, int], numbers: Mapping[int, int]) -> Iterator[Region]:
    for category, outline in regions:
        where = inside_runs(outline, size) if isinstance(outline, dict) else inside_polygons(outline, size)
        yield numbers[category], where


def _content(source: Path) -> _Content:
    try:
        content: dict[str, Any] = json.loads(read_file(source).decode("utf-8-sig"))
        categories = tuple(sorted((int(c["id"]), str(c["name"])) for c in content["categories"]))
        names = {one["id"]: str(one["file_name"]) for one in content["images"]}
        images = sorted((str(i["file_name"]), (int(i["height"]), int(i["width"]))) for i in content["images"])
        regions: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            regions[names[one["image_id"]]].append((int(one["category_id"]), one.get("segmentation")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{source}: not understood ({type(error).__name__} {error}), expected COCO's images, annotations and "
            "categories; export as COCO with segmentation"
        ) from error
    known = {category for category, _ in categories}
    unknown = [category for each in regions.values() for category, _ in each if category not in known]
    if unknown:
        raise InputError(
            f"{source}: got the category {unknown[0]}, expected one of its listed categories; export it again"
        )
    boxes = sum(not outline for each in regions.values() for _, outline in each)
    if boxes or not any(regions.values()):
        raise InputError(
            f"{source}: got {boxes or 'no'} objects {'without an outline' if boxes else 'at all'}, expected polygons "
            "or run lengths; export with segmentation"
        )
    empty = {category for category, _ in categories} - {category for each in regions.values() for category, _ in each}
    if empty:
        warn_once(f"{source}: has no object of {some_of([name for key, name in categories if key in empty])}")
    return _Content(categories, tuple(images), regions)


def _paths(data: Path, source: Path, split: str, names: Sequence[str]) -> list[Path]:
    """The file of each image: in the folder of the split, in the folder of all images, or at the path of its name."""
    own = source.stem.removeprefix(_PREFIX)
    lower = [data / name for name in IMAGES if (data / name).is_dir()]
    if (data / "JPEGImages").is_dir():
        lower.append(data / "JPEGImages")
    within = [folder / name for folder in (data, *lower) for name in (own, *FOLDERS[split])]
    folders = [*within, source.parent, *(within_ / "images" for within_ in within), *lower, data]
    found: list[Path] = []
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        plain = [parts] if not parts.is_absolute() and ".." not in parts.parts else []
        tried = (folder / one for one in (*plain, PurePosixPath(parts.name)) for folder in folders)
        path = next((path for path in tried if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{source}: got the image {name!r}, expected it in {some_of(within[:1])}, {IMAGES[0]}/ or next to the "
                "list; add it or correct the list"
            )
        found.append(path)
    if len(set(found)) < len(found):
        raise InputError(f"{source}: got two images with the same name, expected unique names; export it again")
    return found


COCO_INSTANCES = Layout(
    "COCO instances",
    "annotations/instances_train.json (or a JSON in train/) and images",
    lambda data: bool(_sources(data)),
    lambda data: tuple(_sources(data)),
    _read,
)
