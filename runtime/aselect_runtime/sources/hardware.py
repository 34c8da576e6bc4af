"""Captures whose frames NVIDIA's decoders make: GStreamer's on a Jetson, NVDEC through PyAV elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING

from aselect_runtime.errors import AselectError, EngineError, InputError
from aselect_runtime.sources.decoding import Decoding, jetson
from aselect_runtime.sources.gstreamer import EVERY, NEWEST, PipelineCapture
from aselect_runtime.sources.gstreamer_library import SINK

if TYPE_CHECKING:
    from aselect_runtime.sources.av_capture import AvCapture

PARSERS: Mapping[str, str] = MappingProxyType({"h264": "h264parse", "hevc": "h265parse", "mjpeg": "jpegparse"})
"""FFmpeg's name of a codec -> the element that makes whole images of its bytes."""
DEPAYLOADERS: Mapping[str, str] = MappingProxyType(
    {"h264": "rtph264depay", "hevc": "rtph265depay", "mjpeg": "rtpjpegdepay"}
)
DEMUXERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys((".mp4", ".mov", ".m4v", ".3gp"), "qtdemux"),
        **dict.fromkeys((".mkv", ".webm"), "matroskademux"),
        **dict.fromkeys((".ts", ".m2ts", ".mts"), "tsdemux"),
        ".avi": "avidemux",
        ".flv": "flvdemux",
    }
)
NAMES: Mapping[str, str] = MappingProxyType({"h264": "H.264", "hevc": "H.265", "mjpeg": "MJPEG"})


@dataclass(frozen=True)
class Elements:
    """The decoders of a pipeline by codec, and what brings their frames into memory as BGRx."""

    decoders: Mapping[str, str]
    convert: str


NVIDIA = Elements(
    MappingProxyType({"h264": "nvv4l2decoder", "hevc": "nvv4l2decoder", "mjpeg": "nvv4l2decoder mjpeg=true"}),
    "nvvidconv ! video/x-raw,format=BGRx",
)


@dataclass(frozen=True)
class Place:
    """What is to be decoded: an address or path as FFmpeg takes it, and its printable name."""

    uri: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    """FFmpeg's."""
    timeouts: tuple[float, float] | None = None
    live: bool = False


def by_hardware(place: Place, decoding: Decoding) -> PipelineCapture | AvCapture | None:
    """A capture of which a hardware decoder has made the first frame, or None where the processor is to decode.

    Raises MissingDependencyError where `decoding` will have nothing but hardware, and InputError for what does not
    open at all.
    """
    fault = decoding.fault(place.name)
    if fault is not None:
        decoding.require(place.name, fault)
        return None
    try:
        with decoding.trying(place.name):
            return _on_jetson(place, decoding) if jetson() else _by_nvdec(place, decoding)
    except (EngineError, InputError) as error:
        if place.live and isinstance(error, InputError):
            raise  # the camera is not there; of a file, OpenCV says better what is wrong
        fault = str(error).removeprefix(f"{place.name}: ")
    decoding.refuse(place.name, fault)
    decoding.require(place.name, fault)
    return None


def name_of(codec: str) -> str:
    """As people write it."""
    return NAMES.get(codec, codec)


def _by_nvdec(place: Place, decoding: Decoding) -> AvCapture:
    from aselect_runtime.sources.av_capture import AvCapture

    capture = AvCapture(place.uri, place.name, place.options, place.timeouts, threads=1, cuda=True)
    try:
        _refuse_turned(capture.rotation)
    except AselectError:
        capture.release()
        raise
    decoding.say(name_of(capture.codec), "by NVDEC", "it made the first frame")
    return capture


def _on_jetson(place: Place, decoding: Decoding) -> PipelineCapture:
    from aselect_runtime.sources.av_capture import AvCapture

    asked = AvCapture(place.uri, place.name, place.options, place.timeouts, threads=1)
    try:
        codec = asked.codec
        if not place.live:
            _refuse_turned(asked.rotation)
    finally:
        asked.release()
    text = pipeline(place.uri, codec, NVIDIA, live=place.live)
    try:
        capture = PipelineCapture(text, place.name)
    except InputError as error:
        raise EngineError(str(error)) from error
    decoding.say(name_of(codec), "by nvv4l2decoder", "it made the first frame")
    return capture


def _refuse_turned(degrees: int) -> None:
    if degrees:
        raise EngineError(f"got a video that is to be turned by {degrees} degrees, which only the processor does")


def pipeline(uri: str, codec: str, elements: Elements, *, live: bool) -> str:
    """The GStreamer pipeline from an rtsp:// address or a path to BGRx; raises EngineError where there is none."""
    scheme, mark, _ = uri.partition("://")
    decoder, suffix = elements.decoders.get(codec), PurePath(uri).suffix.lower()
    if decoder is None:
        raise EngineError(f"got {codec}, expected one of {', '.join(elements.decoders)}")
    if mark and scheme.lower() != "rtsp":
        raise EngineError(f"got the scheme {scheme}, which GStreamer is not asked for, expected rtsp or a file")
    if not mark and suffix not in DEMUXERS and suffix not in {".h264", ".264", ".h265", ".hevc"}:
        raise EngineError(f"got a {suffix} file, expected one of {', '.join(sorted(DEMUXERS))}")
    quoted = '"' + uri.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if mark:
        source = f"rtspsrc location={quoted} protocols=tcp latency=100 ! {DEPAYLOADERS[codec]}"
    else:
        demuxer = f" ! {DEMUXERS[suffix]}" if suffix in DEMUXERS else ""
        source = f"filesrc location={quoted}{demuxer}"
    sink = f"appsink name={SINK} {NEWEST if live else EVERY}"
    return f"{source} ! {PARSERS[codec]} ! {decoder} ! {elements.convert} ! {sink}"
