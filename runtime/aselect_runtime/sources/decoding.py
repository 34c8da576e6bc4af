"""Which decoder makes the frames of streams and videos: NVIDIA's hardware where it decodes, else the processor."""

from __future__ import annotations

import ctypes
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import get_args

from aselect_runtime.errors import MissingDependencyError
from aselect_runtime.options import Decode, choice
from aselect_runtime.sources.gstreamer_library import has_element

NVDEC = ("libcuda.so.1", "libnvcuvid.so.1")
"""Libraries of NVIDIA's driver without which NVDEC cannot be used."""
JETSON = ("nvv4l2decoder", "nvvidconv")
"""Elements of GStreamer that decode and convert on a Jetson."""

log = logging.getLogger(__name__)


class Decoding:
    """What a run asks of its decoders, and what it has learned of them; for all connections of all its sources.

    Raises InputError for a mode that there is not.
    """

    def __init__(self, mode: Decode = "auto") -> None:
        choice(mode, get_args(Decode), "decode")
        self.mode: Decode = mode
        self._lock = Lock()
        self._faults: dict[str, str] = {}
        self._said: set[str] = set()

    def fault(self, name: str) -> str | None:
        """Why this source is not decoded by hardware; None where that is to be tried."""
        if self.mode == "software":
            return "software was asked for"
        with self._lock:
            known = self._faults.get(name)
        return known or hardware_fault()

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """For as long as hardware is tried: whoever asks meanwhile, because a driver hangs, is not sent there too."""
        self.refuse(name, "the hardware did not answer in time")
        try:
            yield
        finally:
            with self._lock:
                self._faults.pop(name, None)

    def refuse(self, name: str, fault: str) -> None:
        """Hardware has failed on a source: no connection of this run tries it again."""
        with self._lock:
            self._faults[name] = fault

    def require(self, name: str, fault: str) -> None:
        """Raise MissingDependencyError if nothing but hardware will do."""
        if self.mode == "hardware":
            raise MissingDependencyError(
                f"{name}: got no hardware decoder for it ({fault}), expected one; decode auto takes the processor then",
                parameter="decode",
            )

    def say_processor(self, codec: str, name: str) -> None:
        """Say why the processor decodes this source, if it does."""
        if (fault := self.fault(name)) is not None:
            self.say(codec, "on the processor", fault)

    def say(self, codec: str, decoder: str, why: str) -> None:
        """One line in the log for each codec and reason, not for each connection."""
        line = f"decoding {codec} {decoder}: {why}"
        with self._lock:
            fresh = line not in self._said
            self._said.add(line)
        if fresh:
            log.info("%s", line)


@cache
def hardware_fault() -> str | None:
    """Why this machine decodes nothing by hardware; None where some is there."""
    if jetson():
        return None
    return nvdec_fault()


@cache
def jetson() -> bool:
    """Whether GStreamer has a Jetson's decoder; elsewhere GStreamer is not even loaded."""
    return platform.machine() == "aarch64" and all(map(has_element, JETSON))


def nvdec_fault(libraries: Sequence[str] = NVDEC) -> str | None:
    """Why PyAV's FFmpeg cannot decode with NVDEC here; None where a CUDA device could be opened for it."""
    for library in libraries:  # before PyAV, whose import takes time
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"no {library} of an NVIDIA driver here"
    try:
        import av
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError:
        return "no PyAV of 14.2 or newer here"
    if "cuda" not in hwdevices_available():
        return "PyAV's FFmpeg was built without CUDA"
    try:
        av.CodecContext.create("h264", "r", hwaccel=HWAccel("cuda", allow_software_fallback=False))
    except (av.FFmpegError, OSError, NotImplementedError) as error:
        return f"FFmpeg got no CUDA device ({getattr(error, 'strerror', None) or type(error).__name__})"
    return None
