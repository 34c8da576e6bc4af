"""Which files are images and videos, and finding the images of a folder: one way for every room."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path, PurePath

from aselect_runtime.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})


def is_image(path: PurePath) -> bool:
    """Whether a file is called as images are."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: PurePath) -> bool:
    """Whether a file is called as videos are."""
    return path.suffix.lower() in VIDEO_SUFFIXES


_LEFT_BEHIND = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
"""Folders that systems and programs leave in any folder, in lower case."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's or program's own (`.thumbnails`, `._a.jpg`, `__MACOSX`, `@eaDir`)."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def list_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path; raises InputError if there is none. See `list_files`."""
    images = list_files(folder, IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{folder}: got no image, expected at least one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files below a folder with one of these suffixes, in any case, sorted by path.

    Hidden folders and files are left out, with a warning that counts and names them. Linked folders are followed;
    each folder is read once, so that links in a circle end.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a folder of images; check the path")
    found, hidden = _walk(folder, suffixes)
    if hidden:
        warn_once(f"{folder}: left out {len(hidden)} hidden folders and files: {some_of(sorted(hidden))}")
    return sorted(found)


@cache
def warn_once(line: str) -> None:
    """Warn of what is the same whenever these data are opened, and only the first time."""
    log.warning("%s", line)


def some_of(names: Sequence[object], most: int = 3) -> str:
    """The first names of many, and how many more there are."""
    first = ", ".join(map(str, names[:most]))
    return first + (f" and {len(names) - most} more" if len(names) > most else "")


def _walk(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], list[str]]:
    """The files with one of the suffixes, and what hidden, relative to the folder, was left out."""
    found: list[Path] = []
    hidden: list[str] = []
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        named = [name for name in files if PurePath(name).suffix.lower() in suffixes]
        hidden += [os.path.relpath(os.path.join(here, name), folder) for name in folders + named if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [path for name in named if not is_hidden(name) and (path := Path(here, name)).is_file()]
    return found, hidden
