"""Inputs of frames; `open_source` chooses a module of this package by scheme or suffix."""

from aselect_runtime.media import VIDEO_SUFFIXES
from aselect_runtime.sources.opening import open_source
from aselect_runtime.sources.source import Source

__all__ = ["VIDEO_SUFFIXES", "Source", "open_source"]
