"""A running GStreamer pipeline, through GStreamer's own C library: its frames, its end and its errors.

OpenCV's reader needs an OpenCV that was built with GStreamer, copies and converts each frame, and says neither why a
pipeline does not start nor whether its end is that of a video or the loss of a camera.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_int, c_uint64
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.redaction import redact
from aselect_runtime.sources.gstreamer_bindings import ErrorStruct, MapStruct, VideoMetaStruct, library
from aselect_runtime.sources.image_size import check_size

SINK = "aselect"
"""The name of the appsink that frames are taken from."""
FORMATS: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {
        "BGR": (3, None),
        "BGRx": (4, cv2.COLOR_BGRA2BGR),
        "BGRA": (4, cv2.COLOR_BGRA2BGR),
        "RGB": (3, cv2.COLOR_RGB2BGR),
        "RGBx": (4, cv2.COLOR_RGBA2BGR),
        "RGBA": (4, cv2.COLOR_RGBA2BGR),
        "GRAY8": (1, cv2.COLOR_GRAY2BGR),
    }
)
"""Pixel format -> bytes of a pixel, and how OpenCV makes BGR of it."""
_MAP_READ, _NULL, _PLAYING, _FAILURE, _ERROR, _FATAL = 1, 1, 4, 0, 2, 1
_STAMP, _NO_TIME = 72, (1 << 64) - 1
"""Where a GstBuffer has its presentation time: behind a GstMiniObject of 64 bytes and a pointer."""
SECOND = 1_000_000_000
_SLICE = SECOND // 2
"""Nanoseconds after which a wait for a frame looks whether the pipeline has failed."""


def has_element(name: str) -> bool:
    """Whether GStreamer is here and knows this element."""
    try:
        gst = library()
    except MissingDependencyError:
        return False
    factory = gst.gst_element_factory_find(name.encode())
    if factory:
        gst.gst_object_unref(factory)
    return bool(factory)


@dataclass(frozen=True)
class Layout:
    """How the pixels of a sample lie in memory, and the frames per second that its caps promise (0 for none)."""

    format: str
    height: int
    width: int
    fps: float


class Sample:
    """One frame as the pipeline made it, neither copied nor converted yet; it belongs to whoever holds it."""

    def __init__(self, pointer: int, name: str) -> None:
        self._pointer = pointer
        self._name = name
        self._free: Callable[[int], None] = library().gst_mini_object_unref

    def __del__(self) -> None:
        self._free(self._pointer)

    def layout(self) -> Layout:
        """Raises InputError for something that is not a raw image, or too large."""
        gst = library()
        structure = gst.gst_caps_get_structure(gst.gst_sample_get_caps(self._pointer), 0)
        name = (gst.gst_structure_get_name(structure) or b"").decode()
        pixels = (gst.gst_structure_get_string(structure, b"format") or b"").decode()
        height, width, number, divisor = c_int(), c_int(), c_int(), c_int(1)
        gst.gst_structure_get_int(structure, b"height", byref(height))
        gst.gst_structure_get_int(structure, b"width", byref(width))
        gst.gst_structure_get_fraction(structure, b"framerate", byref(number), byref(divisor))
        if name != "video/x-raw" or pixels not in FORMATS:
            raise InputError(
                f"{self._name}: got frames of {' '.join([name, pixels]).rstrip()}, expected video/x-raw of "
                f"{', '.join(FORMATS)}; put videoconvert ! video/x-raw,format=BGR before the appsink"
            )
        check_size(self._name, width.value, height.value)
        return Layout(pixels, height.value, width.value, number.value / max(1, divisor.value))

    def seconds(self) -> float:
        """When it is to be shown, from the beginning of the pipeline; 0 where that is not known."""
        stamp = c_uint64.from_address(library().gst_sample_get_buffer(self._pointer) + _STAMP).value
        return 0.0 if stamp == _NO_TIME else float(stamp / SECOND)

    def bgr(self) -> Frame:
        """A copy, uint8 [height, width, 3]; raises InputError for a format that is not known."""
        gst = library()
        layout = self.layout()
        depth, conversion = FORMATS[layout.format]
        buffer = gst.gst_sample_get_buffer(self._pointer)
        place = MapStruct()
        if not gst.gst_buffer_map(buffer, byref(place), _MAP_READ):
            raise InputError(
                f"{self._name}: got a frame outside of memory, expected one in it; add nvvidconv to the pipeline"
            )
        try:
            offset, stride = _rows(gst.gst_buffer_get_video_meta(buffer), layout.width * depth)
            needed = offset + stride * (layout.height - 1) + layout.width * depth
            if place.size < needed:
                raise InputError(f"{self._name}: got a frame of {place.size} bytes, expected {needed}; check its caps")
            flat = np.ctypeslib.as_array(ctypes.cast(place.data, POINTER(ctypes.c_uint8)), (place.size,))
            shape, strides = (layout.height, layout.width, depth), (stride, depth, 1)
            image = np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)
            # One way or the other a copy: the memory goes back to the pipeline.
            frame: Frame = np.empty((layout.height, layout.width, 3), np.uint8)
            if conversion is None:
                np.copyto(frame, image)
            else:
                cv2.cvtColor(np.ascontiguousarray(image), conversion, frame)
            return frame
        finally:
            gst.gst_buffer_unmap(buffer, byref(place))


def _rows(meta: int | None, row: int) -> tuple[int, int]:
    """Where the image begins and the bytes from one row to the next; without a meta, rows are padded to four bytes."""
    if meta is None:
        return 0, (row + 3) // 4 * 4
    described = VideoMetaStruct.from_address(meta)
    return int(described.offset[0]), int(described.stride[0])


class Pipeline:
    """Runs from construction on; `text` has an appsink of the name SINK. Not for several threads at once.

    Raises InputError, `name` first, where it cannot be built or started.
    """

    def __init__(self, text: str, name: str) -> None:
        self._gst = gst = library()
        self._name = name
        error = POINTER(ErrorStruct)()
        self._pipeline = gst.gst_parse_launch_full(text.encode(), None, _FATAL, byref(error))
        if error or not self._pipeline:
            said = self._take(error)
            self._unref(self._pipeline)
            raise InputError(f"{name}: got no pipeline ({said}), expected one that GStreamer can build; check it")
        self._sink = gst.gst_bin_get_by_name(self._pipeline, SINK.encode())
        self._bus = gst.gst_element_get_bus(self._pipeline)
        if not self._sink:
            self.close()
            raise InputError(f"{name}: got a pipeline that does not end in one appsink, expected one; check it")
        if gst.gst_element_set_state(self._pipeline, _PLAYING) == _FAILURE:
            said = self._failure() or "no reason given"
            self.close()
            raise InputError(f"{name}: got a pipeline that does not start ({said}), expected one that runs; check it")

    def pull(self, seconds: float) -> Sample | None:
        """The next frame; None at the end. Raises InputError for a failure, or if nothing came within `seconds`."""
        left = int(seconds * SECOND)
        while True:
            sample = self._gst.gst_app_sink_try_pull_sample(self._sink, min(left, _SLICE))
            if sample:
                return Sample(sample, self._name)
            if said := self._failure():
                raise InputError(f"{self._name}: the pipeline failed ({said}), expected frames; check what it names")
            if self._gst.gst_app_sink_is_eos(self._sink):
                return None
            left -= _SLICE
            if left <= 0:
                raise InputError(f"{self._name}: got no frame for {seconds:.0f} s, expected a stream; check the camera")

    def close(self) -> None:
        """Stop it and give everything back; a second time does nothing."""
        if self._pipeline:
            self._gst.gst_element_set_state(self._pipeline, _NULL)
            for held in (self._sink, self._bus, self._pipeline):
                self._unref(held)
            self._pipeline = self._sink = self._bus = None

    def _unref(self, pointer: int | None) -> None:
        if pointer:
            self._gst.gst_object_unref(pointer)

    def _failure(self) -> str:
        """What an element said of its failure; nothing if none has failed."""
        message = self._gst.gst_bus_timed_pop_filtered(self._bus, 0, _ERROR)
        if not message:
            return ""
        error = POINTER(ErrorStruct)()
        self._gst.gst_message_parse_error(message, byref(error), None)
        self._gst.gst_mini_object_unref(message)
        return self._take(error)

    def _take(self, error: Any) -> str:
        """The text of an error, which is freed."""
        if not error:
            return "no reason given"
        said = redact(" ".join((error.contents.message or b"").decode("utf-8", "replace").split()).rstrip("."))
        self._gst.g_error_free(error)
        return said
