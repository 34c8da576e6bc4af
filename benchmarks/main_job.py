"""The main figures: accuracy, export cost, size and speed of the shipped bundle, in one run.

    python -m benchmarks.main_job [--runs 5] [--out runs/main_job.json]

Accuracy and the highway clip need $ASELECT_DATA; without it those rows are left out and the speed is measured on a
synthetic street. Each speed is the median of several runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_runtime.records import Manifest
from benchmarks import runtime
from benchmarks.harness import rows, save, stamp
from benchmarks.process import run

EXPORT = "from aselect_export.commands.export import export; export()"
EVALUATE = "from aselect_export.commands.evaluate import evaluate; evaluate()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/main_job.json"))
    arguments = parser.parse_args()
    data = Path(os.environ["ASELECT_DATA"]) if "ASELECT_DATA" in os.environ else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = export_figures(folder) | size_figures(folder / "fp16")
        if data and (data / "camvid").is_dir():
            figures |= accuracy_figures(folder, data / "camvid")
        clip = data / "video" / "highway_540p.mp4" if data else None
        video = clip if clip and clip.is_file() else runtime.default_video(folder, arguments.frames)
        figures |= runtime.measure(folder / "fp16", video, arguments.runs, arguments.frames, folder)
        size = Manifest.load(folder / "fp16" / "manifest.json").input.shape[1:3]
    record = {
        **stamp(),
        "arguments": {"runs": arguments.runs, "frames": arguments.frames},
        "size": list(size),
        "video": video.name,
        "figures": figures,
    }
    print(rows(f"{record['date']}, {record['machine']}, median of {arguments.runs} runs", figures))
    save(arguments.out, record)
    print(arguments.out)


def export_figures(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of the default export, as whole processes; fp32 too, for the accuracy rows."""
    figures = {}
    for precision in ("fp32", "fp16"):
        seconds, peak, _ = process(EXPORT, "--task", "seg", "--precision", precision, "--out", folder / precision)
        figures[f"export {precision} [s]"] = seconds
        figures[f"export {precision}, peak memory [MB]"] = peak
    return figures


def size_figures(folder: Path) -> dict[str, float]:
    """Bytes of the graphs, and of the weights of the whole DiT that the bundle was truncated from."""
    record = load_bundle(SHIPPED["seg"]).record
    manifest = Manifest.load(folder / "manifest.json")
    whole = sum(p.numel() for p in DiT(DiTConfig.from_json(record.backbone.config), tied=True).parameters())
    rungs = [name for name in manifest.files if name.endswith("fp32.onnx")]
    return {
        "whole DiT without head, float32 [MB]": whole * 4 / 1e6,
        "whole DiT without head, float16 [MB]": whole * 2 / 1e6,
        "deployed graph with head, fp32 [MB]": (folder / rungs[0]).stat().st_size / 1e6,
        "deployed graph with head, fp16 [MB]": (folder / manifest.model).stat().st_size / 1e6,
    }


def accuracy_figures(folder: Path, camvid: Path) -> dict[str, float]:
    """CamVid test mIoU and per-class IoU through ONNX Runtime."""
    figures = {}
    for precision in ("fp32", "fp16"):
        result = json.loads(process(EVALUATE, folder / precision, "--data", camvid, "--split", "test", "--json")[2])
        figures[f"CamVid test mIoU, {precision} [%]"] = 100 * result["score"]
    for name, value in result["per_class"].items():
        figures[f"CamVid test IoU {name}, fp16 [%]"] = 100 * value
    return figures


def process(code: str, *arguments: Any) -> tuple[float, float, str]:
    """Run a command as its own process: seconds, peak resident memory in MB, standard output."""
    done = run([sys.executable, "-c", code, *arguments])
    if done.code:
        sys.exit(f"{arguments}: {done.errors}")
    return done.seconds, done.peak_mb, done.output


if __name__ == "__main__":
    main()
