"""ONNX Runtime on the CPU, as the yardstick for graphs that live in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from aselect_edge.errors import IntegrityError


class Session:
    """Runs one graph; raises IntegrityError if ONNX Runtime refuses it."""

    def __init__(self, model: ModelProto | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            name = model if isinstance(model, Path) else "graph"
            raise IntegrityError(
                f"{name}: ONNX Runtime refused it ({str(error).splitlines()[0]}), expected a graph that "
                "aselect-export wrote; export it again"
            ) from error

    @property
    def metadata(self) -> dict[str, str]:
        """The graph's own metadata."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def infer(self, frames: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Outputs by name for frames uint8 [N, H, W, 3]; all of them, or those that are named."""
        wanted = list(names) if names else [output.name for output in self._session.get_outputs()]
        return dict(zip(wanted, self._session.run(wanted, {"frames": frames}), strict=True))
