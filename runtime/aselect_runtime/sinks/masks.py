"""A folder of masks: single-channel PNGs of the frame's size whose pixel values are class indices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.records import Manifest, MaskFolder
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write

MARKER = "masks.json"
"""Names the classes and the masks: a later run replaces these files and no others."""
KIND = FolderKind(MARKER, lambda path: MaskFolder.load(path).files)


@contextmanager
def masks(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `<label>.png` for each frame; the folder appears whole at the end."""
    names: list[str] = []
    with atomic_folder(path, KIND) as folder:

        def write(result: Result) -> None:
            label = result.captured.label
            file = folder / f"{label}.png"
            if file.exists():
                raise InputError(f"{path}: got two frames named {label}, expected one; run the inputs one by one")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", result.class_map)[1].tobytes())
            names.append(f"{label}.png")

        yield write
        MaskFolder(classes=manifest.classes, files=tuple(names)).save(folder / MARKER)
