"""One function per way of making an INT8 graph from an FP32 one; each is run as a separate process.

    python benchmarks/int8_rows.py ROW fp32.onnx frames.npz int8.onnx

`frames.npz` holds calibration frames uint8 [M, H, W, 3]. Only the packages of a row are imported, because the peers are
installed in separate environments.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aselect_runtime.records import DataFingerprint

INPUT = "frames"


def ours(model: Path, frames: Any, out: Path) -> None:
    """Every layer in INT8, with the default settings of aselect-export and no layer in higher precision."""

    import onnx

    from aselect_calibration import Int8Weights, calibrate, find_layers, prepare, quantised
    from aselect_calibration.frames import CalibrationFrames
    from aselect_calibration.settings import Int8Settings
    from aselect_calibration.weights import Graph, WeightFile
    from aselect_export.graph import LOGITS

    def read() -> Iterator[tuple[str, Any]]:
        return ((str(index), frame) for index, frame in enumerate(frames))

    fingerprint = DataFingerprint(images=len(frames), sha256=hashlib.sha256(frames).hexdigest())
    given = CalibrationFrames(len(frames), fingerprint, read, fit=lambda frame: frame)
    with tempfile.TemporaryDirectory() as scratch:
        weights = WeightFile(Path(scratch), "int8.weights")
        graph = Graph(onnx.load(model), Path(scratch))
        layers = find_layers(graph, LOGITS)
        ranges = calibrate(graph, layers, given, Int8Settings().method_for("int8"), weights)
        ready = prepare(graph, layers, ranges, weights)
        int8 = Int8Weights(ready.graph, weights)
        made = quantised(ready.graph, layers, ranges.layers, int8, weights, outputs=True)
        Graph(made.model, made.folder).write(out)


def ort_default(model: Path, frames: Any, out: Path) -> None:
    """`onnxruntime.quantization.quantize_static` with its defaults, after the pre-processing of its guide."""
    _quantize_static(model, frames, out)


def ort_entropy(model: Path, frames: Any, out: Path) -> None:
    """The same with the entropy calibrator and weights by channel."""
    from onnxruntime.quantization import CalibrationMethod

    _quantize_static(model, frames, out, calibrate_method=CalibrationMethod.Entropy, per_channel=True)


def modelopt(model: Path, frames: Any, out: Path) -> None:
    """NVIDIA Model Optimizer's INT8 defaults."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data={INPUT: frames},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


def nncf(model: Path, frames: Any, out: Path) -> None:
    """NNCF's post-training quantisation for transformers."""
    import nncf as tool  # type: ignore[import-not-found]
    import onnx

    data = tool.Dataset(list(frames), lambda frame: {INPUT: frame[None]})
    kind = tool.ModelType.TRANSFORMER
    onnx.save(tool.quantize(onnx.load(model), data, model_type=kind, subset_size=len(frames)), out)


ROWS: dict[str, Callable[[Path, Any, Path], None]] = {
    row.__name__: row for row in (ours, ort_default, ort_entropy, modelopt, nncf)
}


def _quantize_static(model: Path, frames: Any, out: Path, **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(frames)

        def get_next(self) -> Any:
            frame = next(self.left, None)
            return None if frame is None else {INPUT: frame[None]}

    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "ready.onnx"
        quant_pre_process(model, ready, skip_symbolic_shape=True)
        quantize_static(ready, out, Reader(), **options)


if __name__ == "__main__":
    row, source, frames_file, target = sys.argv[1:]
    with np.load(frames_file) as arrays:
        calibration = arrays["frames"]
    ROWS[row](Path(source), calibration, Path(target))
