"""Floor 2, the runtime: sessions, engines, video sources and sinks, and the pipeline between them.

    manifest, session = open_model(Path("export"), "auto")
    summary = run_pipeline(manifest, session, ["film.mp4"], ["film-overlay.mp4", "film.jsonl"])

Torch-free: NumPy, OpenCV and ONNX Runtime do all the work on a device.
"""

from aselect_runtime.model import open_model
from aselect_runtime.pipeline import run_pipeline
from aselect_runtime.sinks import open_sink
from aselect_runtime.sources import open_source

__all__ = ["open_model", "open_sink", "open_source", "run_pipeline"]
