"""Run every quantiser of int8_rows on a graph: the cost of each, or the reason why it failed."""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.errors import AselectError
from aselect_runtime.sessions.onnx import OnnxSession
from benchmarks import process

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
PEERS = {"modelopt": "nvidia-modelopt[onnx]", "nncf": "nncf"}
TITLES = {
    "ours": "ours, every layer",
    "ort_default": "onnxruntime `quantize_static`, defaults",
    "ort_entropy": "onnxruntime, entropy, per channel",
    "modelopt": "NVIDIA Model Optimizer",
    "nncf": "NNCF",
}
MEMORY = 12 * 2**30
"""Maximum bytes of a row; onnxruntime's entropy calibrator keeps every activation of every frame."""
FEWER = 16
"""Calibration frames in the second try of a row that exceeded that memory."""


def make_rows(
    fp32: Path, frames: NDArray[np.uint8], folder: Path, peers: bool, names: Iterable[str] = TITLES
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Run the quantisers: seconds, peak memory and frames of each that succeeded, and why the others failed.

    The graph of a row that succeeded is `folder/<row>.onnx`.
    """
    rows: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for row in names:
        interpreter = Path(sys.executable) if row not in PEERS else environment(row) if peers else "needs --peers"
        if isinstance(interpreter, str):
            skipped[row] = interpreter
            continue
        for count in sorted({len(frames), min(FEWER, len(frames))}, reverse=True):
            saved = folder / f"frames{count}.npz"
            np.savez(saved, frames=frames[:: len(frames) // count][:count])
            found = run_row(interpreter, row, fp32, saved, folder / f"{row}.onnx")
            if isinstance(found, dict):
                rows[row] = found | {"frames": count}
                skipped.pop(row, None)
                break
            skipped[row] = found
    return rows, skipped


def run_row(interpreter: Path, row: str, fp32: Path, frames: Path, out: Path) -> dict[str, Any] | str:
    """Seconds and peak megabytes of one quantiser, or why it made no graph that ONNX Runtime can load."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    done = process.run([interpreter, ROOT / "benchmarks" / "int8_rows.py", row, fp32, frames, out], limit)
    if done.code or not out.exists():
        return last_line(done.errors or done.output) or f"exit code {done.code}"
    try:
        OnnxSession(out, "cpu").close()
    except AselectError as error:
        log.debug("%s", error)
        return "ONNX Runtime cannot load its graph"
    return {"seconds": done.seconds, "peak_mb": done.peak_mb}


def environment(row: str) -> Path | str:
    """The interpreter of a peer's separate environment, made at its first use, or why it could not be made."""
    folder = ROOT / "runs" / f"venv-{row}"
    interpreter = folder / "bin" / "python"
    if interpreter.exists():
        return interpreter
    venv.create(folder, with_pip=True)
    install = [str(interpreter), "-m", "pip", "install", "-q", PEERS[row], "onnx", "onnxruntime"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder)  # the next run would use an incomplete environment
        return last_line(done.stderr)
    return interpreter


def last_line(text: str) -> str:
    """The last line that a program printed, which names its error; short enough for one table cell."""
    lines = text.strip().splitlines()
    return lines[-1].replace("|", "/")[:300] if lines else ""
