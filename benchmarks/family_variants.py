"""One variant of the family benchmark in a separate process; prints its figures as JSON.

    python -m benchmarks.family_variants VARIANT FAMILY FOLDER

FOLDER holds the weights that `benchmarks.family_models.make` wrote, and the graphs that the export variants write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graph_variants import (
    OURS,
    PLAIN,
    THREADS,
    Arrays,
    Variant,
    after_imports,
    graph_bytes,
    in_onnxruntime,
    main,
    peak,
    timed,
)

TARGET = "sm86"


def make(whole: bool) -> Variant:
    """Write the weights, of all blocks or of those that the tap needs."""

    def run(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
        from benchmarks import family_models

        family_models.make(key, folder, whole)
        return {}, []

    return run


def whole(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """All blocks of the unfolded model, read at half depth."""
    import torch

    from benchmarks.family_models import Unfolded, noisy

    torch.set_num_threads(THREADS)
    model, inputs = Unfolded(key, folder, whole=True), noisy(key)
    with torch.no_grad():
        return {"latency [ms]": timed(lambda: model(*inputs))}, []


def reference(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """The tapped tensor of the unfolded model, loaded block by block."""
    import torch

    from benchmarks.family_models import Unfolded, noisy

    with torch.no_grad():
        return {}, [found.numpy() for found in Unfolded(key, folder, lean=True)(*noisy(key))]


def outputs(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """The tapped tensor of the deployed graph in ONNX Runtime; times nothing."""
    return in_onnxruntime(OURS, timer=None)(key, folder)


def export_plain(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """`torch.onnx.export` of the unfolded blocks up to the tap, with the timestep as an input."""
    import onnx  # noqa: F401 - imported first, so that it is not measured
    import onnxscript  # noqa: F401
    import torch

    from benchmarks.family_models import Unfolded, noisy

    inputs = noisy(key)

    def export(path: Path) -> None:
        module = Unfolded(key, folder).eval()
        with torch.no_grad():
            torch.onnx.export(module, inputs, path, dynamo=True, input_names=["x", "timestep"], verbose=False)

    for name, value in zip(("x", "timestep"), inputs, strict=True):
        np.save(folder / f"plain.{name}.npy", value.numpy())
    return _measured(export, folder / PLAIN), []


def export_ours(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """The folded graph, loaded block by block, traced, simplified and written."""
    import onnxscript  # noqa: F401

    from aselect_export.graph import trace_module
    from benchmarks.family_models import Ours, values

    x = values(key)

    def export(path: Path) -> None:
        trace_module(Ours(key, folder).eval(), x, "x", ["tap0"], path.parent).write(path)

    np.save(folder / "ours.x.npy", x.numpy())
    figures = _measured(export, folder / OURS)
    ((folder / OURS).parent / "traced.weights").unlink()
    return figures, []


def _measured(export: Callable[[Path], Any], path: Path) -> dict[str, float]:
    """Seconds, peak memory and bytes of an export."""
    path.parent.mkdir(exist_ok=True)
    before, start = after_imports(), time.perf_counter()
    export(path)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak above imports [MB]": peak() - before, "bytes": graph_bytes(path)}


def engine(_key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """TensorRT-RTX builds the float32 graph ahead of time."""
    from aselect_runtime.engines.builder import build_engine

    path = folder / "ours.engine"
    build_engine(folder / OURS, path, TARGET, "rtx")
    return {"engine bytes": path.stat().st_size}, []


VARIANTS: dict[str, Variant] = {
    "make": make(whole=True),
    "make-truncated": make(whole=False),
    "whole": whole,
    "reference": reference,
    "outputs": outputs,
    "ours": in_onnxruntime(OURS),
    "export-plain": export_plain,
    "export-ours": export_ours,
    "engine": engine,
}

if __name__ == "__main__":
    main(VARIANTS)
