"""A folder of masks: single-channel PNGs of the frame's size whose pixel values are class indices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.files import atomic_folder
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write

MARKER = "masks.json"
"""Names the classes, and marks the folder as one that a later run may replace."""


@contextmanager
def masks(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `<label>.png` for each frame; the folder appears whole at the end."""
    with atomic_folder(path, MARKER) as folder:
        classes = [item.model_dump(mode="json") for item in manifest.classes]
        (folder / MARKER).write_text(json.dumps({"classes": classes}, indent=2, ensure_ascii=False) + "\n", "utf-8")

        def write(result: Result) -> None:
            label = result.captured.label
            file = folder / f"{label}.png"
            if file.exists():
                raise InputError(f"{path}: got two frames named {label}, expected one; run the inputs one by one")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", result.class_map)[1].tobytes())

        yield write
