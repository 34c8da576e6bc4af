"""A folder of masks: single-channel PNGs of the frame's size whose pixel values are class indices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.errors import WriteError
from aselect_runtime.files import removed
from aselect_runtime.media import MASKS
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.records import Manifest, MaskFolder
from aselect_runtime.results import Result
from aselect_runtime.sinks.short_labels import shortened
from aselect_runtime.sinks.sink import Write

KIND = FolderKind(MASKS, lambda path: MaskFolder.load(path).files)
"""A later run replaces the masks that the record names and no other files."""


@contextmanager
def masks(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `<label>.png` for each frame; the folder appears at the end, complete.

    Raises WriteError if masks were removed in the meantime; those that are left are kept.
    """
    names: list[str] = []
    with atomic_folder(path, KIND) as folder:

        def write(result: Result) -> None:
            file = _unused(folder, _recordable(result.captured.label))
            # Not the folder itself: made again after it was removed, it would lack the masks so far.
            for parent in reversed(file.relative_to(folder).parents[:-1]):
                (folder / parent).mkdir(exist_ok=True)
            file.write_bytes(cv2.imencode(".png", result.class_map)[1].tobytes())
            names.append(file.relative_to(folder).as_posix())

        yield write
        kept = tuple(name for name in names if (folder / name).exists())
        if names and not kept:
            raise removed(path)
        MaskFolder(classes=manifest.classes, files=kept).save(folder / MASKS)
    if len(kept) < len(names):
        raise WriteError(
            f"{path}: got {len(kept)} masks at the end, expected {len(names)}; the others were removed during the run, "
            "write them again"
        )


def _recordable(label: str) -> str:
    """The label with only the characters that the record allows: names on disk are bytes and may be no valid text."""
    text = "".join(each if each.isprintable() and each != "\\" else "\N{REPLACEMENT CHARACTER}" for each in label)
    return shortened(text)


def _unused(folder: Path, label: str) -> Path:
    """`<label>.png`, or with a number if a custom source gives two frames the same label."""
    names = itertools.chain([f"{label}.png"], (f"{label}~{number}.png" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / name).exists())
