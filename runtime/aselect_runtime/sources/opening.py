"""Creating the source that a URI or path names."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

from aselect_runtime.addresses import check_form
from aselect_runtime.errors import InputError
from aselect_runtime.media import CONVERTED, VIDEO_SUFFIXES, is_image, is_video, printable
from aselect_runtime.redaction import redact
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.source import Source

SUPPORTED = (
    "a video file, an image or a folder of them, /dev/videoN or its number, csi://N, rtsp://…, http(s)://…, udp://…, "
    "rtmp://…, srt://…, a GStreamer string or synthetic://street"
)
SCHEMES = {
    "synthetic": "aselect_runtime.sources.synthetic:Synthetic",
}
"""Scheme of an input -> module:function that creates a Source from the URI; imported only when it is needed."""
NETWORK = frozenset({"rtsp", "rtsps", "http", "https", "udp", "rtp", "tcp", "rtmp", "rtmps", "srt"})
"""Schemes that FFmpeg reads."""


def open_source(uri: str, decoding: Decoding | None = None) -> Source:
    """The source that a URI or path names, not yet opened; raises InputError if it is not supported.

    `decoding` has the decoder that was asked for and records those that failed; the sources of a run share it.
    """
    try:
        return _opened(uri, decoding or Decoding())
    except OSError as error:
        name = printable(Path(redact(uri)))
        raise InputError(f"{name}: {error.strerror}, expected {SUPPORTED}; check the path") from error


def _opened(uri: str, decoding: Decoding) -> Source:
    if not uri:
        raise InputError(f"got an empty input, expected {SUPPORTED}; name one")
    # os.path: a pipeline may be longer than any name, for which Path raises an error.
    if "://" not in uri and os.path.exists(uri) and not Path(uri).is_char_device():
        return _file(uri, decoding)
    # Imported here, so that only the modules of the requested kind are loaded.
    device = f"/dev/video{uri}" if re.fullmatch(r"\d{1,2}", uri) else uri
    # udev gives cameras other names, such as /dev/v4l/by-id/…, which exist only while the camera is connected.
    if device.startswith("/dev/") and not device.startswith("/dev/shm/"):
        from aselect_runtime.sources.camera import Camera

        return Camera(Path(device))
    if " ! " in uri or uri.startswith("csi://"):
        from aselect_runtime.sources.gstreamer import gstreamer

        return gstreamer(uri)
    if "://" in uri:
        return _by_scheme(uri, decoding)
    check_form(uri)
    return _file(uri, decoding)


def _by_scheme(uri: str, decoding: Decoding) -> Source:
    scheme = uri.split("://", 1)[0].lower()
    if scheme in NETWORK:
        from aselect_runtime.sources.network import network

        return network(uri, decoding)
    if scheme in SCHEMES:
        module, _, name = SCHEMES[scheme].partition(":")
        opened: Source = getattr(import_module(module), name)(uri)
        return opened
    raise InputError(f"{redact(uri)}: got the scheme {scheme}, expected {SUPPORTED}; change the input")


def _file(uri: str, decoding: Decoding) -> Source:
    path = Path(uri)
    if path.is_dir() or (is_image(path) and path.is_file()):
        from aselect_runtime.sources.images import Images

        return Images(path, decoding)
    if path.exists() and not path.is_file():
        raise InputError(f"{uri}: got a pipe, socket or device, expected {SUPPORTED}; write it to a file first")
    if not path.exists():
        raise InputError(f"{uri}: no such input, expected {SUPPORTED}; check the path")
    if path.suffix.lower() in CONVERTED:
        raise InputError(
            f"{uri}: got a {path.suffix} image, which OpenCV does not read, expected .jpg or .png; convert it, for "
            "example with heif-convert a.heic a.jpg"
        )
    if not is_video(path):
        raise InputError(
            f"{uri}: got the suffix {path.suffix!r}, expected {SUPPORTED} ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    from aselect_runtime.sources.video_file import VideoFile

    return VideoFile(path, decoding)
