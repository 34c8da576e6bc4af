"""The rows of `benchmarks.engines` that need a GPU: latency compared with torch.compile, and the share of GEMM speed.

Never run on the machines that this project was built on, which have no GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from aselect_edge.bundle import load_bundle
from aselect_runtime import open_model
from aselect_runtime.errors import AselectError
from aselect_runtime.options import Device
from aselect_runtime.records import Manifest

RUNS, WARM_UP = 300, 30
GEMM = 8192


def gpu_figures(row: str, folder: Path, bundle: Path) -> dict[str, float]:
    """p50 and p99 of TensorRT, ONNX Runtime CUDA and torch.compile; parity; TensorRT's share of a GEMM's speed."""
    figures: dict[str, float] = {}
    manifest = Manifest.load(folder / "manifest.json")
    devices: tuple[Device, ...] = ("tensorrt", "cuda")
    for device in devices:
        try:
            _, session = open_model(folder, device)
        except AselectError:
            continue
        frames = np.random.default_rng(0).integers(0, 256, manifest.input.shape, np.uint8)
        figures |= _percentiles(f"{row}, {device}", partial(session.infer, frames))
        session.close()
        if device == "tensorrt":
            engines = Manifest.load(folder / "manifest.json").engines  # reloaded after the engine was built
            agreement = next(engine.agreement for engine in engines if engine.agreement is not None)
            figures[f"{row}, tensorrt, same class as ONNX Runtime [%]"] = 100 * agreement
    _, height, width, _ = manifest.input.shape
    model = load_bundle(bundle).deployed((height, width)).cuda().half()
    pixels = torch.zeros(1, 3, height, width, device="cuda", dtype=torch.float16)
    compiled: Callable[[Any], Any] = torch.compile(model, mode="max-autotune")

    def run() -> None:
        with torch.no_grad():
            compiled(pixels)
        torch.cuda.synchronize()

    figures |= _percentiles(f"{row}, torch.compile fp16", run)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels)
    seconds = figures.get(f"{row}, tensorrt, p50 [ms]", float("nan")) / 1e3
    figures[f"{row}, tensorrt, share of the GEMM rate [%]"] = 100 * counter.get_total_flops() / seconds / gemm_rate()
    return figures


def gemm_rate() -> float:
    """Operations per second of a large fp16 matrix product on this GPU."""
    a, b = (torch.randn(GEMM, GEMM, device="cuda", dtype=torch.float16) for _ in range(2))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.matmul(a, b)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * GEMM**3 / float(np.median(times))


def _percentiles(label: str, run: Callable[[], object]) -> dict[str, float]:
    times = []
    for number in range(WARM_UP + RUNS):
        start = time.perf_counter()
        run()
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times, (50, 99))
    return {f"{label}, p50 [ms]": float(p50), f"{label}, p99 [ms]": float(p99)}
