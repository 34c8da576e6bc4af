"""Where frames come from; `open_source` picks one small file of this package by scheme or suffix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from aselect_edge.errors import InputError
from aselect_runtime.redaction import redact as redact
from aselect_runtime.results import Captured, SourceInfo

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})
HERE = (
    "a video file, an image or a folder of images, /dev/videoN, csi://N, rtsp://…, http(s)://…, a GStreamer string "
    "or synthetic://street"
)
NETWORK = ("rtsp", "rtsps", "http", "https")


class Source(Protocol):
    """A context manager that iterates frames; it holds its device or file only between enter and exit.

    The iteration ends where the frames end by themselves. A live source that loses its camera raises InputError; it
    may be entered again, and then starts with a fresh connection.
    """

    info: SourceInfo

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]: ...


def open_source(uri: str) -> Source:
    """The source that a URI or path names, not yet opened; raises InputError if there is none such."""
    # Imported here so that one kind of source does not pay for the others.
    if re.fullmatch(r"/dev/video\d+", uri):
        from aselect_runtime.sources.camera import Camera

        return Camera(Path(uri))
    if " ! " in uri or uri.startswith("csi://"):
        from aselect_runtime.sources.gstreamer import gstreamer

        return gstreamer(uri)
    if "://" in uri:
        return _by_scheme(uri)
    return _file(uri)


def _by_scheme(uri: str) -> Source:
    scheme = uri.split("://", 1)[0].lower()
    if scheme == "synthetic":
        from aselect_runtime.sources.synthetic import Synthetic

        return Synthetic(uri)
    if scheme == "test":
        from aselect_runtime.sources.faulty import Faulty

        return Faulty(uri)
    if scheme in NETWORK:
        from aselect_runtime.sources.network import network

        return network(uri)
    raise InputError(f"{redact(uri)}: got the scheme {scheme}, expected {HERE}; change the input")


def _file(uri: str) -> Source:
    from aselect_edge.frames import IMAGE_SUFFIXES

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
