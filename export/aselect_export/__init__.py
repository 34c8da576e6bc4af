"""Floor 4, export: the ONNX graph, its precision, its verification and its evaluation.

bundle = open_bundle("seg", None)
result = export(bundle, "fp16", Path("seg-fp16"), targets=("sm86",))
"""

from __future__ import annotations

from aselect_export.evaluation import evaluate
from aselect_export.exporting import ExportResult, export, open_bundle

__all__ = ["ExportResult", "evaluate", "export", "open_bundle"]
