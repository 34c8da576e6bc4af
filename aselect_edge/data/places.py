"""Location of images and their labels: the folders of each split, and the label file of each image."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from aselect_edge.data.layout import FOLDERS, folders_in, split_folders, split_of
from aselect_edge.data.lists import read_rows
from aselect_runtime.errors import InputError
from aselect_runtime.media import IMAGE_SUFFIXES, is_hidden, list_files, list_images, some_of, warn_once

IMAGES = ("images", "image", "imgs", "img", "jpegimages")
"""Names of folders of images, in any case."""
LABELS = (
    *("labels", "masks", "annotations", "label", "mask", "annotation", "annots", "annot", "ann"),
    *("segmentationclass", "segmentations", "segmentation", "gt", "groundtruth", "ground_truth", "cls"),
)
"""Names of folders of labels, in any case."""
_BESIDE = re.compile(r"[_-]?(masks?|labels?|annot|annotations?|gt)$", re.IGNORECASE)
"""Suffixes after `train` of a label folder next to it: `train_masks`, `trainannot`."""
_WORDS = "masks?|labels?|annotations?|annot|segmentation|seg|gt|groundtruth|labelIds|labelTrainIds|(?-i:L)"
_OF_LABEL = re.compile(rf"[ _.-]+({_WORDS})$", re.IGNORECASE)
"""Suffixes of a label after its image's name: `001_mask.png`, `001_annotation.png`, CamVid's `001_L.png`."""
_OF_IMAGE = re.compile(r"[ _.-]+(image|img|rgb|sat|leftImg8bit)$", re.IGNORECASE)
_ONE_OF_MANY = re.compile(rf"^(.+?)[ _.-]+({_WORDS})[ _.-]*\d+$", re.IGNORECASE)
"""`001_mask_2.png`: one mask per object."""


_HEADERS = frozenset({"image", "images", "name", "filename", "file_name", "file", "path", "image_id", "id"})
"""First lines of lists that are headers."""

T = TypeVar("T", bound=tuple[Path, Path | None])


@dataclass(frozen=True)
class Place:
    """The folder of a split's images and that of its labels; they may be the same folder."""

    images: Path
    labels: Path


def places(data: Path, suffixes: Collection[str], beside: bool = True) -> dict[str, Place]:
    """The place of each split whose labels have one of these suffixes; only `train` if there are no splits.

    Splits may be the upper folders (`train/images`) or the lower ones (`images/train`). With `beside`, labels may be in
    the folder of their images. Raises InputError for images next to the split folders, which belong to no split.
    """
    upper = {split: _inside(folder, suffixes, beside) for split, folder in split_folders(data).items()}
    found = {split: place for split, place in upper.items() if place}
    if found:
        return found
    images, labels = _named(data, IMAGES), _labels(data, suffixes)
    if images and labels:
        return _lower(images, labels)
    place = _inside(data, suffixes, beside) if not upper else None
    return {"train": place} if place else {}


def pairs(place: Place, suffixes: Collection[str]) -> list[tuple[Path, Path | None]]:
    """Every image of a place with its label, or None; raises InputError if a match is ambiguous."""
    side_by_side = place.images == place.labels
    images = list_images(place.images)
    if side_by_side:
        images = [path for path in images if not (is_label_beside(path) or is_in_labels(path, place.images))]
    _refuse_splits(place.images, images)
    files = list_files(place.labels, suffixes)
    if side_by_side:
        files = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES or is_label_beside(path)]
    known = _by_name(place.labels, files)
    found = [(path, _label(place.images, path, known)) for path in images]
    used = {label for _, label in found if label}
    if len(used) < sum(label is not None for _, label in found):
        twice = next(label for at, (_, label) in enumerate(found) if label and label in {o for _, o in found[:at]})
        raise InputError(f"{twice}: got two images with this name, expected one; rename or remove the other")
    _warn_of_rest(place, [path for path in files if path not in used], images)
    return found


def is_label_beside(path: Path) -> bool:
    """Whether an image is the label of another one in its folder: `001_mask.png` of `001.jpg`."""
    stem = _OF_LABEL.sub("", path.stem)
    return stem != path.stem and _is_image_at(path.with_name(stem))


def _is_image_at(path: Path) -> bool:
    """Whether there is an image with this path and any suffix."""
    return any(path.with_name(path.name + each).is_file() for one in IMAGE_SUFFIXES for each in (one, one.upper()))


def _inside(folder: Path, suffixes: Collection[str], beside: bool) -> Place | None:
    """The images and labels of one split that has its own folder."""
    images, labels = _named(folder, IMAGES), _labels(folder, suffixes)
    if images and labels:
        return Place(images, labels)
    if images is None and labels is None:
        siblings = _siblings(folder.absolute(), suffixes)  # `.` has no name
        if len(siblings) > 1:
            raise InputError(
                f"{folder}: got the labels {some_of([path.name for path in siblings])} beside it, expected one "
                "folder of them; move the others away"
            )
        if siblings:
            return Place(folder, siblings[0])
    return Place(images or folder, images or folder) if beside and _beside(images or folder, suffixes) else None


def _siblings(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The folders of labels beside a folder of images, such as `train_masks` of `train`, by name."""
    there = (child for child in sorted(folder.parent.iterdir()) if child.name.startswith(folder.name))
    return [
        child
        for child in there
        if _BESIDE.fullmatch(child.name[len(folder.name) :]) and child.is_dir() and has_file(child, suffixes)
    ]


def _beside(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether labels are directly in a folder of images."""
    with os.scandir(folder) as entries:
        paths = (Path(entry.path) for entry in entries if not is_hidden(entry.name))
        named = (path for path in paths if path.suffix.lower() in suffixes)
        return any(
            is_label_beside(path) if path.suffix.lower() in IMAGE_SUFFIXES else _is_image_at(path.with_name(path.stem))
            for path in named
        )


def _lower(images: Path, labels: Path) -> dict[str, Place]:
    """The places of splits that are folders within `images`, else one place for all."""
    splits = split_folders(images)
    if not splits:
        return {"train": Place(images, labels)}
    others = [name for name in folders_in(images) if split_of(name) is None]
    loose = [path.name for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if others or loose:
        raise InputError(
            f"{images}: got {some_of(others + loose)} next to the folders {', '.join(splits)}, expected every image in "
            "the folder of a split; move or remove them"
        )
    matching = split_folders(labels)
    return {split: Place(folder, matching.get(split, labels)) for split, folder in splits.items()}


def _named(folder: Path, names: Sequence[str]) -> Path | None:
    there = {name.lower(): folder / name for name in folders_in(folder)}
    return next((there[name] for name in names if name in there), None)


def _labels(folder: Path, suffixes: Collection[str]) -> Path | None:
    there = {name.lower(): folder / name for name in folders_in(folder)}
    return next((there[name] for name in LABELS if name in there and has_file(there[name], suffixes)), None)


def has_file(folder: Path, suffixes: Collection[str], seen: frozenset[str] = frozenset()) -> bool:
    """Whether there is a file with one of the suffixes below a folder; stops at the first.

    Links are followed, but not into the folders `seen` on the way there: they may form a circle.
    """
    seen |= {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if any(PurePath(name).suffix.lower() in suffixes and not is_hidden(name) for name in files):
            return True
        paths = (os.path.join(parent, name) for name in folders)
        linked = {os.path.realpath(path) for path in paths if os.path.islink(path)} - seen
        if any(has_file(Path(path), suffixes, seen) for path in linked):
            return True
    return False


def is_in_labels(path: Path, data: Path) -> bool:
    """Whether a file below `data` is in a folder of labels, by the folder's name."""
    return any(name.lower() in LABELS for name in path.relative_to(data).parts[:-1])


def _by_name(folder: Path, files: Sequence[Path]) -> Mapping[PurePath, Sequence[Path]]:
    """Label files by the image path that they could belong to, relative to the folder and without a suffix."""
    known: dict[PurePath, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.relative_to(folder).with_suffix("")
        for name in dict.fromkeys((stem.name, _OF_LABEL.sub("", stem.name))):
            known[stem.with_name(name)].append(path)
    return known


def _label(folder: Path, image: Path, known: Mapping[PurePath, Sequence[Path]]) -> Path | None:
    relative = image.relative_to(folder)
    for name in (relative.name, relative.stem, _OF_IMAGE.sub("", relative.stem)):
        labels = known.get(relative.with_name(name), ())
        if len(labels) > 1:
            raise InputError(
                f"{image}: got the labels {some_of([label.name for label in labels])}, expected one; remove the others"
            )
        if labels:
            return labels[0]
    return None


def split_lists(data: Path) -> dict[str, Path]:
    """The lists `train.txt`, `val.txt` and `test.txt` in a folder, or in the sub-folders where tools put them."""
    for folder in (data, *(data / name for name in ("splits", "lists", "ImageSets/Segmentation", "ImageSets"))):
        found: dict[str, Path] = {}
        for path in sorted(folder.glob("*.txt")):
            split = split_of(path.stem)
            if split in found:
                raise InputError(
                    f"{path}: got a second list of the split {split} next to {found[split].name}, expected one; remove "
                    "one"
                )
            if split:
                found[split] = path
        if found:
            return {split: found[split] for split in FOLDERS if split in found}
    return {}


def chosen_by(source: Path, folder: Path, found: Sequence[T]) -> list[T]:
    """The pairs that a list names, of images in `folder`; raises InputError for a name without an image.

    A line is a path or a name, with or without a suffix; text after it is ignored, because labels are found by name.
    """
    whole = {image.relative_to(folder).with_suffix("").as_posix(): at for at, (image, _) in enumerate(found)}
    short = {PurePath(name).name: at for name, at in whole.items()}
    known = {**short, **whole} if len(short) == len(whole) else whole
    chosen = []
    for number, (line,) in enumerate(read_rows(source, 1)):
        names = [PurePath(line.strip('"')), PurePath(line.split()[0].strip('"'))]
        forms = [form for one in names if one.name for form in (one, one.with_suffix(""))]
        at = next((known[key] for form in forms for key in (form.as_posix(), form.name) if key in known), None)
        if at is not None:
            chosen.append(at)
        elif number or line.lower() not in _HEADERS:
            raise InputError(f"{source}: got {line!r}, expected names of images in {folder}; correct the list")
    return [found[at] for at in dict.fromkeys(chosen)]


def _refuse_splits(folder: Path, images: Sequence[Path]) -> None:
    """Raise InputError for splits that are nested too deeply: test images would be used for training."""
    for path in images:
        within = next((part for part in path.relative_to(folder).parts[:-1] if split_of(part)), None)
        if within:
            raise InputError(
                f"{path.parent}: got the split {within} nested inside {folder.name}, expected splits as its upper "
                f"folders or those directly in it; move {within} up"
            )


def _warn_of_rest(place: Place, rest: Sequence[Path], images: Sequence[Path]) -> None:
    """Warn of labels without an image; raises InputError if an image has more labels than the one used."""
    stems = {path.stem for path in images}
    for path in rest:
        many = _ONE_OF_MANY.match(path.stem)
        if many and many[1] in stems:
            raise InputError(
                f"{path}: got several masks of the image {many[1]}, expected one with the class of every pixel; "
                "merge them"
            )
    if rest:
        warn_once(f"{place.labels}: left out {len(rest)} labels without an image: {some_of([p.name for p in rest])}")
