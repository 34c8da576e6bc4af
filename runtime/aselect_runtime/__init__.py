"""All that a device needs: sessions, engines, video sources and sinks, and the pipeline that connects them.

    with Model("seg-fp16") as model:
        result = model(cv2.imread("street.jpg"))
        for result in model.stream("rtsp://camera/1"):
            print(result.to_json())

`run_pipeline` connects many inputs to many outputs, as aselect-run does; objects that implement `Source` or `Sink` are
accepted as inputs and outputs too. The package also holds what all other packages share: errors, records, frames,
files, progress, the synthetic street scenes. It needs no torch: a device uses NumPy, OpenCV and ONNX Runtime. Importing
this package loads no large library.
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
