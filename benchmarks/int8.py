"""INT8 of the shipped model beside other quantisers, and of DiT-XL/2's shape: accuracy, latency, bytes, cost.

    python -m benchmarks.int8 [--frames 128] [--runs 40] [--peers] [--out runs/int8.json]
    python -m benchmarks.int8 --write        puts the table of benchmarks/results/int8.json into docs/int8.md

Needs $ASELECT_DATA for CamVid. All rows start from the same FP32 graph and the same calibration frames, each in a
process of its own; latencies are taken side by side, in turns. NVIDIA Model Optimizer and NNCF are installed into
environments of their own under runs/, several GB together, with --peers only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from aselect_calibration.frames import calibration_frames
from aselect_edge import evaluation
from aselect_edge.backbones.dit import DiT, DiTConfig
from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.data import open_segmentation
from aselect_edge.files import atomic_write
from aselect_edge.heads import build_head
from aselect_edge.perception import Perception
from aselect_edge.records import HeadSpec, Noise, Resize, Tap
from aselect_export.graph import LOGITS, trace, without_logits
from aselect_runtime.onnx_session import OnnxSession, physical_cores
from benchmarks import process
from benchmarks.process import processor

ROOT = Path(__file__).parent.parent
PEERS = {"modelopt": "nvidia-modelopt[onnx]", "nncf": "nncf"}
TITLES = {
    "ours": "ours, every layer",
    "ort_default": "onnxruntime `quantize_static`, defaults",
    "ort_entropy": "onnxruntime, entropy, per channel",
    "modelopt": "NVIDIA Model Optimizer",
    "nncf": "NNCF",
}
ENTROPY_MEMORY = 12 * 2**30
"""Bytes that a row may take; onnxruntime's entropy calibrator keeps every activation of every frame."""
FEWER = 16
"""Calibration frames of a row that ran out of that memory, in its second try."""
VNNI_GAIN = 4
"""INT8 products per instruction over FP32 ones of the same vector width (VPDPBUSD beside VFMADD231PS)."""
XL_BLOCKS = 10
"""Blocks of the graph of tap 9.query."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--images", type=int, default=233, help="of CamVid's test split")
    parser.add_argument("--xl-blocks", type=int, default=XL_BLOCKS)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/int8.json"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.write:
        write_docs()
        return
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid/; set it and run again")
    with tempfile.TemporaryDirectory() as name:
        record = measure(arguments, Path(os.environ["ASELECT_DATA"]) / "camvid", Path(name))
    print(table(record))
    atomic_write(arguments.out, json.dumps(record, indent=2) + "\n")
    print(arguments.out)


def measure(arguments: argparse.Namespace, camvid: Path, folder: Path) -> dict[str, Any]:
    """All figures of one run."""
    bundle = load_bundle(SHIPPED["seg"])
    size, how = bundle.record.imgsz, bundle.record.resize
    fp32 = folder / "fp32.onnx"
    without_logits(trace(bundle.deployed(), "seg", 1, size, folder)).write(fp32)
    frames = np.stack(list(calibration_frames(camvid, arguments.frames, size, how)))
    rows, skipped = make_rows(fp32, frames, folder, arguments.peers)
    graphs = {"fp32": fp32} | {row: folder / f"{row}.onnx" for row in rows}
    for row, score in accuracies(graphs, camvid, size, how, arguments.images).items():
        rows.setdefault(row, {})["miou"] = score
    for row, milliseconds in latencies(graphs, frames[:1], arguments.runs).items():
        rows[row] |= {"latency_ms": milliseconds, "bytes": graphs[row].stat().st_size}
    share = product_share(fp32, frames[:1], folder)
    limit = 1 - share + share / VNNI_GAIN
    skipped["cub40"] = "no classification bundle ships"
    return {
        "date": str(datetime.date.today()),
        "machine": f"{os.cpu_count()} cores, {processor()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "threads": physical_cores(),
        "frames": arguments.frames,
        "test_images": arguments.images,
        "rows": rows,
        "skipped": skipped,
        "amdahl": {"share_of_products": share, "latency_ratio_limit": limit},
        "xl": xl_figures(arguments.xl_blocks, max(8, arguments.runs // 4), folder / "xl"),
        "export": export_figures(camvid, arguments.frames, folder),
    }


def make_rows(
    fp32: Path, frames: NDArray[np.uint8], folder: Path, peers: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Run every quantiser: seconds, peak memory and frames of each that worked, and why the others did not."""
    rows: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for row in TITLES:
        interpreter = Path(sys.executable)
        if row in PEERS:
            if not peers:
                skipped[row] = "needs --peers"
                continue
            interpreter = environment(row)
        for count in (len(frames), FEWER):
            saved = folder / f"frames{count}.npz"
            np.savez(saved, frames=frames[:: max(1, len(frames) // count)][:count])
            found = run_row(interpreter, row, fp32, saved, folder / f"{row}.onnx")
            if isinstance(found, dict):
                rows[row] = found | {"frames": count}
                break
            skipped[row if count == FEWER else f"{row}, {count} frames"] = found
    return rows, skipped


def run_row(interpreter: Path, row: str, fp32: Path, frames: Path, out: Path) -> dict[str, Any] | str:
    """Seconds and peak megabytes of one quantiser, or the last line of what it said when it failed."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ENTROPY_MEMORY, ENTROPY_MEMORY))

    done = process.run([interpreter, ROOT / "benchmarks" / "int8_rows.py", row, fp32, frames, out], limit)
    if done.code or not out.exists():
        lines = (done.errors or done.output).strip().splitlines()
        return lines[-1] if lines else f"exit code {done.code}"
    return {"seconds": done.seconds, "peak_mb": done.peak_mb}


def environment(row: str) -> Path:
    """The interpreter of a peer's own environment, made when it is first needed."""
    folder = ROOT / "runs" / f"venv-{row}"
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", PEERS[row], "onnx", "onnxruntime"], check=True)
    return interpreter


def accuracies(
    graphs: dict[str, Path], camvid: Path, size: tuple[int, int], how: Resize, images: int
) -> dict[str, float]:
    """CamVid test mIoU of every graph."""
    data = open_segmentation(camvid, "test")
    data = type(data)(data.pairs[:images], data.classes, data.ignore_index)
    found = {}
    for row, path in graphs.items():
        session = OnnxSession(path, "cpu")
        found[row] = evaluation.measure(
            lambda frames, s=session: s.infer(frames, ["class_map"])["class_map"],  # type: ignore[misc]
            data,
            size,
            how,
        ).score
        session.close()
    return found


def latencies(graphs: dict[str, Path], frame: NDArray[np.uint8], runs: int) -> dict[str, float]:
    """Median milliseconds of every graph, taken in turns."""
    sessions = {row: OnnxSession(path, "cpu") for row, path in graphs.items()}
    taken: dict[str, list[float]] = {row: [] for row in graphs}
    for turn in range(runs + 3):
        for row, session in sessions.items():
            started = time.perf_counter()
            session.infer(frame)
            if turn >= 3:
                taken[row].append(time.perf_counter() - started)
    return {row: 1e3 * statistics.median(times) for row, times in taken.items()}


def product_share(fp32: Path, frame: NDArray[np.uint8], folder: Path) -> float:
    """The share of the FP32 graph's time, by ONNX Runtime's own profile, in the products that INT8 is for."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(fp32, options, providers=["CPUExecutionProvider"])
    for _ in range(20):
        session.run(None, {"frames": frame})
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    medians = {node: statistics.median(taken) for node, taken in times.items()}
    # Attention's inner products are MatMul; those with weights have become Gemm. The head's last layer stays FP32.
    products = sum(
        taken
        for (operation, name), taken in medians.items()
        if operation in ("Gemm", "Conv", "FusedConv") and not name.startswith(LOGITS)
    )
    return products / sum(medians.values())


def xl_figures(blocks: int, runs: int, folder: Path) -> dict[str, Any]:
    """FP32 and INT8 side by side on a graph with the blocks of DiT-XL/2 at 256 tokens, random weights."""
    folder.mkdir()
    size = (256, 256)
    torch.manual_seed(0)
    config = DiTConfig(16, 72, in_channels=3, num_layers=blocks, patch_size=16, sample_size=256, num_embeds_ada_norm=2)
    backbone = DiT(config, tied=True)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [config.width], 11)
    tap = Tap(block=blocks - 1, component="query")
    model = Perception(backbone, head, Noise(alpha=1, sigma=0, model_timestep=0), (tap,), size, None)
    graphs = {"fp32": folder / "fp32.onnx", "ours": folder / "ours.onnx"}
    without_logits(trace(model.eval().deployed(), "seg", 1, size, folder)).write(graphs["fp32"])
    del model, backbone
    frames = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    np.savez(folder / "frames.npz", frames=frames)
    cost = run_row(Path(sys.executable), "ours", graphs["fp32"], folder / "frames.npz", graphs["ours"])
    if isinstance(cost, str):
        sys.exit(f"XL: {cost}")
    found = latencies(graphs, frames[:1], runs)
    return {
        "blocks": blocks,
        "latency_ms": found,
        "bytes": {row: path.stat().st_size for row, path in graphs.items()},
        "calibration_4_frames": cost,
    }


def export_figures(camvid: Path, frames: int, folder: Path) -> dict[str, Any]:
    """What aselect-export itself reports: the gate on the validation split, and the layers given back."""
    out = folder / "export"
    arguments = ["--task", "seg", "--precision", "int8", "--data", camvid, "--calib-images", frames, "--out", out]
    code = "from aselect_export.cli import export; export()"
    own_cache = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--engine", "none", "--json"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=own_cache,
    )
    seconds = time.perf_counter() - started
    found = json.loads((out / "report.json").read_text())["quantisation"]
    returned = [layer["layer"] for layer in found["layers"] if not layer["int8"]]
    return {"seconds": seconds, "val_fp32": found["fp32"], "val_int8": found["int8"], "given_back": returned}


def table(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows, exact = record["rows"], record["rows"]["fp32"]
    lines = [
        "| INT8 of the shipped model | CamVid test mIoU | drop [points] | latency / FP32 | bytes / FP32 | "
        "calibration | peak memory | frames |",
        "|---|---|---|---|---|---|---|---|",
        f"| FP32 | {100 * exact['miou']:.2f} % | | 1 ({exact['latency_ms']:.1f} ms) | "
        f"1 ({exact['bytes'] / 1e6:.2f} MB) | | | |",
    ]
    for row, title in TITLES.items():
        if row not in rows:
            lines.append(f"| {title} | {record['skipped'][row]} | | | | | | |")
            continue
        one = rows[row]
        lines.append(
            f"| {title} | {100 * one['miou']:.2f} % | {100 * (exact['miou'] - one['miou']):.2f} | "
            f"{one['latency_ms'] / exact['latency_ms']:.2f} | {one['bytes'] / exact['bytes']:.3f} | "
            f"{one['seconds']:.0f} s | {one['peak_mb']:.0f} MB | {one['frames']} |"
        )
    amdahl, xl, export = record["amdahl"], record["xl"], record["export"]
    reached = amdahl["latency_ratio_limit"] * exact["latency_ms"] / rows["ours"]["latency_ms"]
    xl_ratio = xl["latency_ms"]["fp32"] / xl["latency_ms"]["ours"]
    lines += [
        "",
        f"Measured {record['date']} on {record['machine']}, ONNX Runtime {record['onnxruntime']}, "
        f"{record['threads']} thread(s), {record['test_images']} test images, with `python -m benchmarks.int8`.",
        "",
        f"- Products with weights take {100 * amdahl['share_of_products']:.0f} % of the FP32 graph's time in ONNX "
        f"Runtime's profile. At {VNNI_GAIN} times their speed the latency ratio would be "
        f"{amdahl['latency_ratio_limit']:.2f}; ours reaches {100 * reached:.0f} % of that.",
        f"- DiT-XL/2's blocks ({xl['blocks']} of them, 256 tokens): {xl_ratio:.2f} times as fast as FP32, "
        f"{xl['bytes']['ours'] / xl['bytes']['fp32']:.3f} of its bytes.",
        f"- The whole export with every gate takes {export['seconds']:.0f} s; validation mIoU "
        f"{100 * export['val_fp32']:.2f} % in FP32, {100 * export['val_int8']:.2f} % in INT8, "
        f"{len(export['given_back'])} layers given back.",
        f"- cub40: {record['skipped']['cub40']}.",
    ]
    return "\n".join(lines)


def write_docs() -> None:
    """Put the committed figures into docs/int8.md."""
    page = ROOT / "docs" / "int8.md"
    record = json.loads((ROOT / "benchmarks" / "results" / "int8.json").read_text(encoding="utf-8"))
    opening, closing = "<!-- figures: python -m benchmarks.int8 --write -->", "<!-- end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(opening)
    after = rest.partition(closing)[2]
    page.write_text(f"{before}{opening}\n{table(record)}\n{closing}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
