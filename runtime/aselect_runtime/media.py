"""Which files are images and videos, and finding the images of a folder: one way for every room."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

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
"""The file that marks a folder as masks that aselect-run wrote: results, and no images to run on."""


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

    Linked folders are followed; each folder is read once, so that links in a circle end. Folders of masks that
    aselect-run wrote are left out.
    """
    return _listed(folder, is_image, "image", IMAGE_SUFFIXES)


def list_media(folder: Path) -> list[Path]:
    """All images and videos below a folder, as `list_images`."""
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if left_out := list(_files(folder, lambda path: path.suffix.lower() in CONVERTED)):
        log.warning(
            "%s: left out %d images such as %s, which OpenCV does not read; convert them to .jpg",
            *(folder, len(left_out), left_out[0].name),
        )
    return _listed(folder, lambda path: is_image(path) or is_video(path), "image or video", suffixes)


def _listed(folder: Path, wanted: Callable[[PurePath], bool], kind: str, suffixes: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a folder of images; check the path")
    found = sorted(_files(folder, wanted))
    if not found:
        raise InputError(f"{folder}: got no {kind}, expected at least one of {', '.join(sorted(suffixes))}")
    return found


def split_images(data: Path, splits: Sequence[str]) -> list[Path]:
    """The images of the first of these splits that `data` has, else all of `data`; label masks are left out.

    A split is a folder of that name, or the `images` in it. Raises InputError if there is no image.
    """
    folders = [folder for split in splits for folder in (data / split / "images", data / split) if folder.is_dir()]
    folder = folders[0] if folders else data
    return [path for path in list_images(folder) if not any(map(_holds_labels, _between(folder, path)))]


def printable(path: PurePath) -> str:
    """The path as text that can be written anywhere: names on disk are bytes, which need not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


@contextmanager
def library_path(path: Path) -> Iterator[str]:
    """The path as OpenCV and FFmpeg can open it for as long as the block lasts.

    Absolute, because FFmpeg takes `a:b.mp4` for an address of the protocol `a`. They want UTF-8, and crash on anything
    else; such a name is reached by a link.
    """
    absolute = os.path.abspath(path)
    try:
        named = os.fsencode(absolute) == absolute.encode()
    except UnicodeEncodeError:
        named = False
    if named:
        yield absolute
        return
    with tempfile.TemporaryDirectory(prefix="aselect-") as folder:
        link = Path(folder, f"file{path.suffix}")
        link.symlink_to(absolute)
        yield str(link)


def _files(folder: Path, wanted: Callable[[PurePath], bool]) -> Iterator[Path]:
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        if MASKS in files and Path(here) != folder:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        paths = (Path(here, name) for name in files if not is_hidden(name))
        yield from (path for path in paths if wanted(path) and path.is_file())


def _between(folder: Path, path: Path) -> list[Path]:
    """The folders below `folder` that lead to `path`."""
    return list(path.parents)[: len(path.relative_to(folder).parts) - 1]


def _holds_labels(folder: Path) -> bool:
    return folder.name == "labels" or (folder.name == "masks" and (folder.parent / "images").is_dir())
