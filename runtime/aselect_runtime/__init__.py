"""The ground floor, all that a device needs: sessions, engines, video sources and sinks, and the pipeline between them.

    with Model("seg-fp16") as model:
        result = model(cv2.imread("street.jpg"))
        for result in model.stream("rtsp://camera/1"):
            print(result.to_json())

`run_pipeline` runs many inputs into many outputs, as aselect-run does; a `Source` or `Sink` of one's own is an input
or output like any other. The room holds what every room shares, too: errors, records, frames, files, progress, the
street scenes. Torch-free: NumPy, OpenCV and ONNX Runtime do all the work on a device. Importing this package loads
nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes
from aselect_runtime.telemetry import switch_off

if TYPE_CHECKING:
    from aselect_runtime.backends import open_model
    from aselect_runtime.model import Model
    from aselect_runtime.pipeline import run_pipeline
    from aselect_runtime.results import Captured, Result, SourceInfo
    from aselect_runtime.sinks import Sink, open_sink
    from aselect_runtime.sources import Source, open_source

__version__ = "0.1.0"
__all__ = [
    "Captured",
    "Model",
    "Result",
    "Sink",
    "Source",
    "SourceInfo",
    "__version__",
    "open_model",
    "open_sink",
    "open_source",
    "run_pipeline",
]

switch_off()

_HOMES = {
    "Captured": "results",
    "Model": "model",
    "Result": "results",
    "Sink": "sinks",
    "Source": "sources",
    "SourceInfo": "results",
    "open_model": "backends",
    "open_sink": "sinks",
    "open_source": "sources",
    "run_pipeline": "pipeline",
}

__getattr__ = attributes(__name__, _HOMES)
