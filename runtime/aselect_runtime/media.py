"""Which files are images and videos, and finding the images of a folder: one way for every room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from aselect_runtime.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})


def is_image(path: PurePath) -> bool:
    """Whether a file is called as images are."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: PurePath) -> bool:
    """Whether a file is called as videos are."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a program's own (`.thumbnails`, `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`)."""
    return name.startswith(".") or name == "__MACOSX"


def list_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path, hidden ones aside; raises InputError if there is none.

    Linked folders are followed; each folder is read once, so that links in a circle end.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a folder of images; check the path")
    images = sorted(_images(folder))
    if not images:
        raise InputError(f"{folder}: got no image, expected at least one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def split_images(data: Path, splits: Sequence[str]) -> list[Path]:
    """The images of the first of these splits that `data` has, else all of `data`; label masks are left out.

    A split is a folder of that name, or the `images` in it. Raises InputError if there is no image.
    """
    folders = [folder for split in splits for folder in (data / split / "images", data / split) if folder.is_dir()]
    folder = folders[0] if folders else data
    return [path for path in list_images(folder) if not any(map(_holds_labels, _between(folder, path)))]


def _images(folder: Path) -> Iterator[Path]:
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        paths = (Path(here, name) for name in files if not is_hidden(name))
        yield from (path for path in paths if is_image(path) and path.is_file())


def _between(folder: Path, path: Path) -> list[Path]:
    """The folders below `folder` that lead to `path`."""
    return list(path.parents)[: len(path.relative_to(folder).parts) - 1]


def _holds_labels(folder: Path) -> bool:
    return folder.name == "labels" or (folder.name == "masks" and (folder.parent / "images").is_dir())
