"""Where frames come from; `open_source` picks one small file of this package by scheme or suffix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from aselect_edge.errors import InputError
from aselect_runtime.results import Captured, SourceInfo

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})
HERE = "a video file, an image or a folder of images, /dev/videoN, or synthetic://street"


class Source(Protocol):
    """A context manager that iterates frames; it holds its device or file only between enter and exit."""

    info: SourceInfo

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]: ...


def open_source(uri: str) -> Source:
    """The source that a URI or path names, not yet opened; raises InputError if there is none such."""
    # Imported here so that one kind of source does not pay for the others.
    from aselect_edge.frames import IMAGE_SUFFIXES

    if re.fullmatch(r"/dev/video\d+", uri):
        from aselect_runtime.sources.camera import Camera

        return Camera(Path(uri))
    if uri.startswith("synthetic:"):
        from aselect_runtime.sources.synthetic import Synthetic

        return Synthetic(uri)
    if "://" in uri or " ! " in uri:
        scheme = uri.split("://", 1)[0] if "://" in uri else "GStreamer"
        raise InputError(f"{redact(uri)}: {scheme} is not in this version, expected {HERE}; record it to a file first")
    path = Path(uri)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        from aselect_runtime.sources.images import Images

        return Images(path)
    if not path.exists():
        raise InputError(f"{uri}: no such input, expected {HERE}; check the path")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"{uri}: got the suffix {path.suffix!r}, expected {HERE} ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    from aselect_runtime.sources.video import Video

    return Video(path)


def redact(uri: str) -> str:
    """The URI without user, password and secret query values, fit for a log."""
    uri = re.sub(r"://\S*@", "://***@", uri)
    return re.sub(r"(?i)([?&][^=&\s]*(?:pass|pwd|token|key|secret|auth)[^=&\s]*=)[^&\s]*", r"\1***", uri)
