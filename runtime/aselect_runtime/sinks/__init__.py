"""Where results go; `open_sink` picks one small file of this package by suffix or scheme."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from aselect_edge.errors import InputError
from aselect_edge.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sources import redact

Write: TypeAlias = Callable[[Result], None]
Sink: TypeAlias = AbstractContextManager[Write]
"""Entering gives the way to write one result. Leaving completes the file; leaving by an error removes it."""

HERE = ".mp4 or .mkv (overlay video), .jsonl (results), .png (overlay of the last frame), or folder/ (masks)"


def open_sink(uri: str, manifest: Manifest) -> Sink:
    """The sink that a path names; raises InputError if there is none such or it does not fit the model's task."""
    path = Path(uri)
    if "://" in uri:
        raise InputError(f"{redact(uri)}: this output is not in this version, expected {HERE}")
    if not uri.endswith("/") and path.is_dir() and path.suffix:
        raise InputError(f"{uri}: is a folder, expected a file; end it with / for masks or choose another name")
    if uri.endswith("/") or not path.suffix:
        from aselect_runtime.sinks.masks import masks

        if manifest.task != "seg":
            raise InputError(f"{uri}: got a classification model, expected segmentation for masks; write .jsonl")
        return masks(path, manifest)
    if path.suffix in {".mp4", ".mkv"}:
        from aselect_runtime.sinks.video import video

        return video(path, manifest)
    if path.suffix == ".jsonl":
        from aselect_runtime.sinks.lines import lines

        return lines(path, manifest)
    if path.suffix == ".png":
        from aselect_runtime.sinks.picture import picture

        return picture(path, manifest)
    raise InputError(f"{uri}: got the suffix {path.suffix!r}, expected {HERE}")
