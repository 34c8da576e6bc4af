"""csi://N, a Jetson's camera connector, and any GStreamer pipeline as a string."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import cv2

from aselect_runtime.errors import InputError
from aselect_runtime.redaction import redact
from aselect_runtime.results import SourceInfo
from aselect_runtime.sources.addresses import short_name
from aselect_runtime.sources.deferred import Make
from aselect_runtime.sources.gstreamer_library import SINK, Pipeline, has_element
from aselect_runtime.sources.opencv import FPS, LiveCapture
from aselect_runtime.sources.source import Source
from aselect_runtime.sources.video import Video

NEWEST = "drop=true max-buffers=1 sync=false"
"""Properties of an appsink that keeps only the newest frame, and does not wait for its presentation time."""
EVERY = "drop=false max-buffers=4 sync=false"
"""Of one that makes the pipeline wait."""
CONVERTED = "videoconvert ! video/x-raw,format=(string){BGR,BGRx,BGRA,GRAY8}"
"""Passes on what is one of these already."""
CSI = (
    "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx"
)
FIRST = 20.0
"""Seconds until the first frame; rtspsrc asks for UDP in vain, for five of them, before it takes TCP."""
NEXT = 10.0
"""Seconds between two frames."""
FINITE = re.compile(r"\bnum-buffers=[1-9]|(?:^|[\s!(])(?:multi|split)?filesrc\s|\buri=\"?file:")
PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "nv": "nvidia-l4t-gstreamer nvidia-l4t-camera, on a Jetson",
        "avdec_": "gstreamer1.0-libav",
        "h264parse": "gstreamer1.0-plugins-bad",
        "h265parse": "gstreamer1.0-plugins-bad",
        "x264enc": "gstreamer1.0-plugins-ugly",
        "video": "gstreamer1.0-plugins-base",
        "": "gstreamer1.0-plugins-good, or -bad",
    }
)
"""How an element's name begins -> Debian's package that has it."""


def gstreamer(uri: str) -> Source:
    """A finite pipeline (of files, or with `num-buffers`) as a video, any other as a live source.

    Raises InputError for a bad csi:// address. What GStreamer lacks is named on entering.
    """
    name = redact(uri)
    match = re.fullmatch(r"csi://(\d{1,2})", uri)
    if uri.startswith("csi://") and not match:
        raise InputError(f"{name}: got no connector number, expected csi://0 or csi://1")
    text = uri if match is None else CSI.format(number=match[1])
    stem = f"csi{match[1]}" if match else short_name(uri)
    finite = is_finite(text)

    def connect() -> PipelineCapture:
        check_elements(text, name)
        return PipelineCapture(pipeline_of(text, EVERY if finite else NEWEST), name)

    if finite:
        return Video(name, stem, connect)
    return LiveCapture(SourceInfo(name, FPS, live=True), stem, connect, "check the camera")


def is_finite(text: str) -> bool:
    """Whether a pipeline ends by itself: then every frame is wanted, and its end is no loss."""
    return FINITE.search(text) is not None


def pipeline_of(text: str, properties: str = NEWEST) -> str:
    """The pipeline that ends in the one appsink that frames are taken from; the user's own keeps its properties.

    What comes there is converted, as far as it has to be, unless the user's appsink has caps.
    """
    head, mark, last = text.rpartition(" ! ")
    words = last.split()
    if not words or words[0] != "appsink":
        return f"{text} ! {CONVERTED} ! appsink name={SINK} {properties}"
    own = [word for word in words[1:] if not word.startswith("name=")]
    converted = "" if head.endswith(CONVERTED) or any(word.startswith("caps=") for word in own) else f" ! {CONVERTED}"
    return f"{head}{converted if head else ''}{mark}{' '.join(['appsink', f'name={SINK}', *own])}"


def check_elements(text: str, name: str) -> None:
    """Raise InputError that names the elements which are not installed, and their packages."""
    missing = [element for element in elements(text) if not has_element(element)]
    if missing:
        package = next(package for start, package in PACKAGES.items() if missing[0].startswith(start))
        raise InputError(f"{name}: got no GStreamer element {', '.join(missing)} here, expected it; install {package}")


def elements(text: str) -> list[str]:
    """The names of the elements in a pipeline: the first word behind each ` ! `, unless it is caps or a reference."""
    outside_quotes = re.sub(r"\"(?:[^\"\\]|\\.)*\"", "", text)
    words = [(part.split() or [""])[0] for part in outside_quotes.split(" ! ")]
    return [word for word in words if re.fullmatch(r"[a-z][a-z0-9_-]*", word)]


class PipelineCapture:
    """A running pipeline, whose frames are made when they are asked for."""

    def __init__(self, text: str, name: str) -> None:
        self._pipeline = Pipeline(text, name)
        self._position = 0.0
        try:
            self._waiting = self._pipeline.pull(FIRST)
            self._fps = self._waiting.layout().fps if self._waiting else 0.0
            # Where frames are reordered, a container shows the first of them later than at its beginning.
            self._start = self._waiting.seconds() if self._waiting else 0.0
        except InputError:
            self._pipeline.close()
            raise

    def next(self) -> Make | None:
        """The next frame; None at the end. Raises InputError for a pipeline that failed or went silent."""
        sample = self._waiting or self._pipeline.pull(NEXT)
        self._waiting = None
        if sample is None:
            return None
        self._position = sample.seconds() - self._start
        return sample.bgr

    def get(self, property_id: int) -> float:
        """The rate and the position in milliseconds; 0 for what is not known."""
        known = {cv2.CAP_PROP_FPS: self._fps, cv2.CAP_PROP_POS_MSEC: self._position * 1000}
        return known.get(property_id, 0.0)

    def release(self) -> None:
        """Stop the pipeline."""
        self._waiting = None
        self._pipeline.close()
