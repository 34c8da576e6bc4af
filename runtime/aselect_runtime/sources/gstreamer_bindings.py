"""What is called of GStreamer's C library: its functions with their types, and three of its structures."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from types import MappingProxyType
from typing import Any

from aselect_runtime.errors import MissingDependencyError


class ErrorStruct(Structure):
    """A GError."""

    _fields_ = (("domain", c_uint), ("code", c_int), ("message", c_char_p))


class MapStruct(Structure):
    """A GstMapInfo: where a buffer's bytes lie while it is mapped."""

    _fields_ = (
        ("memory", c_void_p),
        ("flags", c_int),
        ("data", c_void_p),
        ("size", c_size_t),
        ("maxsize", c_size_t),
        ("user", c_void_p * 4),
        ("reserved", c_void_p * 4),
    )


class VideoMetaStruct(Structure):
    """The beginning of a GstVideoMeta: where each plane lies."""

    _fields_ = (
        ("meta_flags", c_int),
        ("info", c_void_p),
        ("buffer", c_void_p),
        ("flags", c_int),
        ("format", c_int),
        ("id", c_int),
        ("width", c_uint),
        ("height", c_uint),
        ("planes", c_uint),
        ("offset", c_size_t * 4),
        ("stride", c_int * 4),
    )


@cache
def library() -> Any:
    """Load the functions that are used, by name; raises MissingDependencyError where GStreamer is not installed."""
    pointers = (
        *("gst_parse_launch_full", "gst_bin_get_by_name", "gst_element_get_bus", "gst_bus_timed_pop_filtered"),
        *("gst_sample_get_buffer", "gst_sample_get_caps", "gst_caps_get_structure", "gst_element_factory_find"),
        *("gst_app_sink_try_pull_sample", "gst_buffer_get_video_meta"),
    )
    try:
        gst, app, video, glib = (
            ctypes.CDLL(f"lib{name}.so.0") for name in ("gstreamer-1.0", "gstapp-1.0", "gstvideo-1.0", "glib-2.0")
        )
    except OSError as error:
        raise MissingDependencyError(
            f"got no GStreamer here ({error}), expected its libraries; on Debian and Ubuntu: sudo apt install "
            "libgstreamer1.0-0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
        ) from error
    found = {}
    for shared in (glib, gst, app, video):
        for name in _SIGNATURES:
            if name not in found and hasattr(shared, name):
                function = getattr(shared, name)
                function.argtypes = _SIGNATURES[name]
                function.restype = c_void_p if name in pointers else c_char_p if name in _TEXTS else c_int
                found[name] = function
    gst.gst_init(None, None)
    return type("GStreamer", (), {name: staticmethod(function) for name, function in found.items()})


_TEXTS = frozenset({"gst_structure_get_string", "gst_structure_get_name"})
_SIGNATURES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "g_error_free": (c_void_p,),
        "g_free": (c_void_p,),
        "gst_parse_launch_full": (c_char_p, c_void_p, c_int, POINTER(POINTER(ErrorStruct))),
        "gst_bin_get_by_name": (c_void_p, c_char_p),
        "gst_element_factory_find": (c_char_p,),
        "gst_element_get_bus": (c_void_p,),
        "gst_element_set_state": (c_void_p, c_int),
        "gst_bus_timed_pop_filtered": (c_void_p, c_uint64, c_int),
        "gst_message_parse_error": (c_void_p, POINTER(POINTER(ErrorStruct)), c_void_p),
        "gst_object_unref": (c_void_p,),
        "gst_mini_object_unref": (c_void_p,),
        "gst_sample_get_buffer": (c_void_p,),
        "gst_sample_get_caps": (c_void_p,),
        "gst_caps_get_structure": (c_void_p, c_uint),
        "gst_structure_get_name": (c_void_p,),
        "gst_structure_get_int": (c_void_p, c_char_p, POINTER(c_int)),
        "gst_structure_get_fraction": (c_void_p, c_char_p, POINTER(c_int), POINTER(c_int)),
        "gst_structure_get_string": (c_void_p, c_char_p),
        "gst_buffer_map": (c_void_p, POINTER(MapStruct), c_int),
        "gst_buffer_unmap": (c_void_p, POINTER(MapStruct)),
        "gst_buffer_get_video_meta": (c_void_p,),
        "gst_app_sink_try_pull_sample": (c_void_p, c_uint64),
        "gst_app_sink_is_eos": (c_void_p,),
    }
)
