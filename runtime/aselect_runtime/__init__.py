"""The ground floor, all that a device needs: sessions, engines, video sources and sinks, and the pipeline between them.

    manifest, session = open_model(Path("export"), "auto")
    summary = run_pipeline(manifest, session, ["film.mp4"], ["film-overlay.mp4", "film.jsonl"])

It holds what every room shares, too: errors, records, frames, files, progress, the street scenes. Torch-free: NumPy,
OpenCV and ONNX Runtime do all the work on a device. Importing this package loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aselect_runtime.model import open_model
    from aselect_runtime.pipeline import run_pipeline
    from aselect_runtime.sinks import open_sink
    from aselect_runtime.sources import open_source

__version__ = "0.1.0"
__all__ = ["__version__", "open_model", "open_sink", "open_source", "run_pipeline"]

_HOMES = {"open_model": "model", "open_sink": "sinks", "open_source": "sources", "run_pipeline": "pipeline"}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for, so that `aselect-run --help` does not wait for OpenCV."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
