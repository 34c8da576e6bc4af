"""The cost of engines: seconds, peak memory and size of ahead-of-time builds, and on a GPU their speed.

    python -m benchmarks.engines [--xl-blocks 14] [--targets sm86,sm89] [--out benchmarks/results/engines.json]

Adds to the results of other runs in the file. Each build is a separate process, so that its peak memory is measured
alone. The shape of DiT-XL/2 has random weights: 256 tokens of width 1152. A precision that cannot be exported is listed
with the reason. The GPU rows exist only if TensorRT finds a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle import SHIPPED, save_bundle
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_runtime.engines import runnable
from aselect_runtime.records import BackboneSource, Bundle, ClassInfo, HeadSpec, Noise, Resize, Selection, Tap
from aselect_runtime.scenes import Street
from benchmarks.harness import load, rows, save, stamp
from benchmarks.main_job import EXPORT, process

BUILD = """
import sys
from pathlib import Path
from aselect_runtime.engines import add_engines
(engine,) = add_engines(Path(sys.argv[1]), [sys.argv[2]])
print(engine.file)
"""
PRECISIONS = ("fp32", "fp16", "int8")
XL = DiTConfig(16, 72, in_channels=3, num_layers=28, patch_size=16, sample_size=16, num_embeds_ada_norm=1000)
XL_SIZE = (256, 256)
FRAMES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="sm86,sm89")
    parser.add_argument("--xl-blocks", type=int, default=14, help="the block whose query is tapped; 0 leaves XL out")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.json"))
    arguments = parser.parse_args()
    figures, skipped = names_checked(), {}
    with tempfile.TemporaryDirectory() as name:
        # Random weights have neither stored ranges nor an accuracy to lose.
        calibration = ["--data", streets(Path(name) / "streets"), "--calib-images", FRAMES, "--max-drop", 1]
        bundles = {f"shipped {task}": path for task, path in SHIPPED.items()}
        if arguments.xl_blocks:
            label = f"DiT-XL/2 shape, {arguments.xl_blocks}.query"
            bundles[label] = random_xl(Path(name) / "xl", arguments.xl_blocks)
        for label, bundle in bundles.items():
            for precision in arguments.precisions.split(","):
                row, folder = f"{label}, {precision}", Path(name) / label.replace("/", "-") / precision
                reason = export(bundle, precision, folder, calibration if label.startswith("DiT-XL") else [])
                if reason:
                    skipped[row] = reason
                    continue
                for target in arguments.targets.split(","):
                    figures |= build(row, folder, target)
                if runnable() == "tensorrt":
                    from benchmarks.gpu_engines import gpu_figures

                    figures |= gpu_figures(row, folder, bundle)
    report(figures, skipped, arguments.out)


def streets(folder: Path) -> Path:
    """A folder of synthetic frames."""
    folder.mkdir()
    for seed in range(FRAMES):
        cv2.imwrite(str(folder / f"{seed}.png"), Street(seed, *XL_SIZE).frame(seed)[0])
    return folder


def export(bundle: Path, precision: str, folder: Path, calibration: Sequence[Any]) -> str | None:
    """Export a bundle, INT8 with its options of `calibration`; returns the reason if it failed, else None."""
    command = [sys.executable, "-c", EXPORT, "--model", bundle, "--precision", precision, "--out", folder]
    command += ["--engine", "none", "--no-ladder", *(calibration if precision == "int8" else [])]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def build(row: str, folder: Path, target: str) -> dict[str, float]:
    """Cost and size of one engine."""
    seconds, peak, file = process(BUILD, folder, target)
    return {
        f"{row}, {target} [s]": seconds,
        f"{row}, {target}, peak memory [MB]": peak,
        f"{row}, {target}, engine [MB]": (folder / file.strip()).stat().st_size / 1e6,
    }


def names_checked() -> dict[str, float]:
    """The number of names of NVIDIA's interfaces that the code uses, each checked by the tests."""
    from tests.runtime.engines.test_cuda import names
    from tests.runtime.engines.test_names import TABLED, USED

    return {
        "TensorRT names checked against TensorRT-RTX": float(len(USED)),
        f"TensorRT names checked against each of {', '.join(TABLED)}": float(len(USED)),
        "cuda-python names checked": float(len(names())),
    }


def random_xl(folder: Path, block: int) -> Path:
    """A bundle of DiT-XL/2's shape with random weights, truncated at the query of `block`."""
    torch.manual_seed(0)
    backbone = DiT(cut(block))
    tap, spec = Tap.parse(f"{block}.query"), HeadSpec(kind="linear", channels=64)
    classes = tuple(ClassInfo(name=f"class {index}", colour=(index, 0, 0)) for index in range(16))
    noise = Noise(alpha=0.99, sigma=0.1, model_timestep=50.0)
    head = build_head(spec, "seg", [XL.width], len(classes))
    model = TapModel(backbone, head, noise, (tap,), XL_SIZE, 0).eval().requires_grad_(False)
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    record = Bundle(
        task="seg",
        classes=classes,
        imgsz=XL_SIZE,
        resize=Resize(),
        backbone=BackboneSource(
            family="dit", config=cut(block).to_json(), source="random", file="backbone.safetensors"
        ),
        taps=(tap,),
        noise=noise,
        head=spec,
    )
    save_bundle(folder, record, Selection(backbone="random", noise=noise, tap=tap, strategy="manual"), model)
    return folder


def cut(block: int) -> DiTConfig:
    """XL's configuration with no block after the tapped one."""
    return DiTConfig.from_json(XL.to_json() | {"num_layers": block + 1})


def report(figures: dict[str, float], skipped: dict[str, str], out: Path) -> None:
    """Print the figures and write them."""
    stamped = stamp()
    print(rows(f"{stamped['date']}, {stamped['machine']}, one run each", figures))
    for row, reason in skipped.items():
        print(f"  {row:<72}left out: {reason}")
    before = load(out)
    figures = before.get("figures", {}) | figures
    skipped = {
        row: why
        for row, why in (before.get("skipped", {}) | skipped).items()
        if not any(name.startswith(row) for name in figures)
    }
    save(out, {**stamped, "figures": figures, "skipped": skipped})
    print(out)


if __name__ == "__main__":
    main()
