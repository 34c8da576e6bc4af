"""Floor 3, export: the ONNX graph, its precision, its verification and its evaluation.

bundle = open_bundle("seg", None)
result = export(bundle, "fp16", Path("seg-fp16"), targets=("sm86",))
found = evaluate(result.folder, Path("camvid"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aselect_export.evaluation import evaluate
    from aselect_export.exporting import export, open_bundle

__all__ = ["evaluate", "export", "open_bundle"]

_HOMES = {"evaluate": "evaluation", "export": "exporting", "open_bundle": "exporting"}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for, so that `aselect-export --help` does not wait for OpenCV."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
