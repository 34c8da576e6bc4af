"""Floor 3, export: the ONNX graph, its precision, its verification and its evaluation.

    result = export("seg", "fp16", target="sm86")
    found = evaluate(result.folder, "camvid")

Importing this package loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for, so that `aselect-export --help` does not wait for OpenCV."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
