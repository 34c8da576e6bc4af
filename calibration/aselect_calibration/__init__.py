"""Layer 2, calibration: activation ranges for INT8, and the quantised graph.

layers = find_layers(graph, "logits")
ranges = calibrate(graph, layers, calibration_frames(Path("camvid"), 128, (144, 192), resize), "mse", weights)
ready = prepare(graph, layers, ranges, weights)
int8 = quantised(ready.graph, layers, ranges.layers, Int8Weights(ready.graph, weights), weights, outputs=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_calibration.calibrating import calibrate, prepare
    from aselect_calibration.frames import calibration_frames
    from aselect_calibration.insertion import Int8Weights, quantised
    from aselect_calibration.layers import find_layers

__all__ = ["Int8Weights", "calibrate", "calibration_frames", "find_layers", "prepare", "quantised"]

__getattr__ = attributes(
    __name__,
    {
        "Int8Weights": "insertion",
        "calibrate": "calibrating",
        "calibration_frames": "frames",
        "find_layers": "layers",
        "prepare": "calibrating",
        "quantised": "insertion",
    },
)
