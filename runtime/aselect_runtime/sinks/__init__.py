"""Outputs of results; `open_sink` chooses a module of this package by suffix or scheme."""

from aselect_runtime.sinks.opening import open_sink
from aselect_runtime.sinks.sink import Sink, SinkClosed, Write

__all__ = ["Sink", "SinkClosed", "Write", "open_sink"]
