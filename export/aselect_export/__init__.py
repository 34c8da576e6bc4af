"""Layer 3, export: the ONNX graph, its precision, its verification and its evaluation.

    result = export("seg", "fp16", target="sm86")
    found = evaluate(result.folder, "camvid")

Importing this package does not import torch or onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_export.api import export
    from aselect_export.evaluation import Evaluation, evaluate
    from aselect_export.exporting import ExportResult, open_bundle

__all__ = ["Evaluation", "ExportResult", "evaluate", "export", "open_bundle"]

_HOMES = {
    "Evaluation": "evaluation",
    "ExportResult": "exporting",
    "evaluate": "evaluation",
    "export": "api",
    "open_bundle": "exporting",
}

__getattr__ = attributes(__name__, _HOMES)
