"""Opening the sink that a path or URI names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from aselect_runtime.addresses import check_form
from aselect_runtime.errors import InputError
from aselect_runtime.records import Manifest
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.image import image, images
from aselect_runtime.sinks.lines import lines, standard_output
from aselect_runtime.sinks.sink import EACH, IMAGES, STDOUT, VIDEOS, Sink, writes_files

SCHEMES = {
    "display": "display",
    "http": "web",
    "https": "web",
    "mqtt": "mqtt",
    "mqtts": "mqtt",
    "metrics": "metrics",
}
"""Scheme of an output -> module of this package. The module's function of the same name opens `(uri, manifest)` as a
Sink; the module is imported only when such an output is opened."""

SUPPORTED = (
    ".mp4 or .mkv (overlay video), .jsonl or - (results), .png (overlay of the last frame, with {name} of each), "
    "folder/ (masks), display://, http://host:port (live page), mqtt://host/topic or metrics://host:port"
)


def open_sink(uri: str, manifest: Manifest) -> Sink:
    """The sink that a path or URI names; raises InputError if it is not supported or does not fit the model."""
    check_form(uri)
    path = Path(uri)
    if not uri:
        raise InputError(f"got an empty output, expected {SUPPORTED}; name one", parameter="output")
    if uri == STDOUT:
        return standard_output()
    if not writes_files(uri):
        scheme = uri.split("://", 1)[0]
        if scheme not in SCHEMES:
            raise InputError(f"{redact(uri)}: got the scheme {scheme}, expected {SUPPORTED}")
        name = SCHEMES[scheme]
        opened: Sink = getattr(import_module(f"aselect_runtime.sinks.{name}"), name)(uri, manifest)
        return opened
    if path.name in {*VIDEOS, *IMAGES, ".jsonl"} and not uri.endswith("/"):
        raise InputError(f"{uri}: got only a suffix, expected a name before it; add one", parameter="output")
    if not uri.endswith("/") and path.is_dir() and path.suffix:
        raise InputError(f"{uri}: is a folder, expected a file; append / to write masks, or choose another name")
    if uri.endswith("/") or not path.suffix:
        from aselect_runtime.sinks.masks import masks

        if manifest.task != "seg":
            raise InputError(f"{uri}: got a classification model, expected segmentation for masks; write .jsonl")
        return masks(path, manifest)
    if path.suffix in VIDEOS:
        from aselect_runtime.sinks.video import video

        return video(path, manifest)
    if path.suffix == ".jsonl":
        return lines(path)
    if path.suffix in IMAGES and EACH in uri:
        return images(uri, manifest)
    if path.suffix == ".png":
        return image(path, manifest)
    raise InputError(f"{uri}: got the suffix {path.suffix!r}, expected {SUPPORTED}")
