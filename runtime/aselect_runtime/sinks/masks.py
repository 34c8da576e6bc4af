"""A folder of masks: single-channel PNGs of the frame's size whose pixel values are class indices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from aselect_runtime.files import atomic_folder
from aselect_runtime.media import MASKS
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write


@contextmanager
def masks(path: Path, manifest: Manifest) -> Iterator[Write]:
    """Writes `<label>.png` for each frame; the folder appears whole at the end."""
    with atomic_folder(path, MASKS) as folder:
        classes = [item.model_dump(mode="json") for item in manifest.classes]
        (folder / MASKS).write_text(json.dumps({"classes": classes}, indent=2, ensure_ascii=False) + "\n", "utf-8")

        def write(result: Result) -> None:
            file = _unused(folder, result.captured.label)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", result.class_map)[1].tobytes())

        yield write


def _unused(folder: Path, label: str) -> Path:
    """`<label>.png`, or with a number where sources of one's own give two frames one label."""
    names = itertools.chain([f"{label}.png"], (f"{label}~{number}.png" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / name).exists())
