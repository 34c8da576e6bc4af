"""ONNX Runtime on the CPU, as the yardstick for graphs that live in memory and have outputs of any name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from aselect_runtime.onnx_session import physical_cores


class Session:
    """Runs one graph in memory."""

    def __init__(self, model: ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = physical_cores()
        options.log_severity_level = 4  # errors arrive as exceptions
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def infer(self, frames: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Outputs by name for frames uint8 [N, H, W, 3]; all of them, or those that are named."""
        wanted = list(names) if names else [output.name for output in self._session.get_outputs()]
        return dict(zip(wanted, self._session.run(wanted, {"frames": frames}), strict=True))
