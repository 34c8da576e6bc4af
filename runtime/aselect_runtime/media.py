"""Which files are images and videos, and how the images of a folder are found; shared by all packages."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import NoReturn

from aselect_runtime.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif"})
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv"),
        *(".3gp", ".h264", ".264", ".h265", ".hevc", ".gif", ".ogv", ".vob"),
    }
)
CONVERTED = frozenset({".heic", ".heif"})
"""Images that OpenCV does not read."""
MASKS = "masks.json"
"""The file that marks a folder of masks written by aselect-run: these are results, not inputs."""


def is_image(path: PurePath) -> bool:
    """Whether the file's suffix is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: PurePath) -> bool:
    """Whether the file's suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


_LEFT_BEHIND = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
"""Folders that operating systems and programs create in any folder, in lower case."""


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden or system file (`.thumbnails`, `._a.jpg`, `__MACOSX`, `@eaDir`)."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def list_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path; raises InputError if there is none. See `list_files`."""
    images = list_files(folder, IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{folder}: got no image, expected at least one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def list_media(folder: Path) -> list[Path]:
    """All images and videos below a folder, sorted by path; raises InputError if there is none. See `list_files`."""
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    there = list_files(folder, suffixes | CONVERTED)
    found = [path for path in there if path.suffix.lower() in suffixes]
    if left_out := [path for path in there if path.suffix.lower() in CONVERTED]:
        what = f"{len(left_out)} images such as {left_out[0].name}, which OpenCV does not read"
        if not found:
            raise InputError(f"{folder}: got {what}, expected another format; convert them to .jpg")
        log.warning("%s: left out %s; convert them to .jpg", folder, what)
    if not found:
        raise InputError(f"{folder}: got no image or video, expected at least one of {', '.join(sorted(suffixes))}")
    return found


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files below a folder with one of these suffixes, in any case, sorted by path.

    Hidden folders and files are left out, with a warning that counts and names them. Linked folders are followed; each
    folder is read only once, so that circular links are no problem. Raises InputError for a folder that must not be
    read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a folder of images; check the path")
    found, hidden = _walk(folder, suffixes)
    if hidden:
        warn_once(f"{folder}: left out {len(hidden)} hidden folders and files: {some_of(sorted(hidden))}")
    return sorted(found)


@cache
def warn_once(line: str) -> None:
    """Log a warning, but each text only once per process."""
    log.warning("%s", line)


def some_of(names: Sequence[object], most: int = 3) -> str:
    """The first names of many, and how many more there are."""
    first = ", ".join(map(str, names[:most]))
    return first + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(path: PurePath) -> str:
    """The path as valid UTF-8 text, with replacement characters: names on disk are bytes, which may not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def is_text(name: str) -> bool:
    """Whether the bytes of a name on disk are valid UTF-8."""
    try:
        return os.fsencode(name) == name.encode()
    except UnicodeEncodeError:
        return False


@contextmanager
def library_path(path: Path) -> Iterator[str]:
    """Yield the path in a form that OpenCV and FFmpeg can open; valid inside the block.

    Absolute, because FFmpeg reads `a:b.mp4` as an address of the protocol `a`. OpenCV and FFmpeg crash on a name that
    is not UTF-8; such a file is opened through a temporary symbolic link.
    """
    absolute = os.path.abspath(path)
    if is_text(absolute):
        yield absolute
        return
    with tempfile.TemporaryDirectory(prefix="aselect-") as folder:
        link = Path(folder, f"file{path.suffix}")
        link.symlink_to(absolute)
        yield str(link)


def _walk(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], list[str]]:
    """The files with one of the suffixes, and the hidden entries that were left out, relative to the folder."""
    found: list[Path] = []
    hidden: list[str] = []
    seen = set()
    for here, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        if MASKS in files and Path(here) != folder:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        named = [name for name in files if PurePath(name).suffix.lower() in suffixes]
        hidden += [os.path.relpath(os.path.join(here, name), folder) for name in folders + named if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [path for name in named if not is_hidden(name) and (path := Path(here, name)).is_file()]
    return found, hidden


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(
        f"{error.filename}: unreadable ({error.strerror}), expected a folder of images; check its permissions"
    ) from error
