"""What folding saves on a GPU, measured in torch: the unfolded and the folded model, each also with torch.compile.

    python -m benchmarks.gpu_fold [BUNDLE] [--device cuda] [--out runs/gpu_fold.json]

Float16, one frame and eight frames a call, in interleaved rounds; a figure is the median over the
rounds of a round's median. TensorRT, which devices use, is measured by `python -m benchmarks.engines`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

import aselect_weights
from aselect_edge.bundle import load_bundle
from aselect_runtime import scenes
from benchmarks.harness import in_turns, rows, save, stamp

BATCHES, ROUNDS, CALLS, WARM_UP = (1, 8), 5, 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=aselect_weights.seg)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_fold.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    figures = measure(arguments.bundle, device, arguments.rounds)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(rows(f"{arguments.bundle} on {gpu}", figures))
    save(arguments.out, {**stamp(gpu), "figures": figures})


@torch.no_grad()
def measure(path: Path, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds of a call of every variant and batch, and how often its class is that of the float32 model."""
    bundle = load_bundle(path)
    whole, folded = bundle.reference().to(device), bundle.deployed().to(device)
    frames = pixels(bundle.record.imgsz, max(BATCHES), device)
    expected = whole(frames).argmax(1)
    whole, folded, frames = whole.half(), folded.half(), frames.half()
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "unfolded": whole,
        "unfolded, torch.compile": torch.compile(whole),
        "folded": folded,
        "folded, torch.compile": torch.compile(folded),
    }
    figures: dict[str, float] = {}
    for name, run in variants.items():
        agreement = (run(frames).argmax(1) == expected).float().mean()
        figures[f"{name}, same class as unfolded in float32 [%]"] = 100 * float(agreement)
    for batch in BATCHES:
        ways = {name: partial(milliseconds, run, frames[:batch]) for name, run in variants.items()}
        for name, value in in_turns(ways, rounds).items():
            figures[f"{name}, {batch} frames a call [ms]"] = value
    return figures


def pixels(imgsz: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """Frames of a synthetic street (count, 3, H, W), BGR, 0..255."""
    street = scenes.Street(seed=0, height=imgsz[0], width=imgsz[1])
    frames = np.stack([street.frame(20 * index)[0] for index in range(count)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().to(device)


def milliseconds(run: Callable[[Tensor], Tensor], frames: Tensor) -> float:
    """The median time of one call, with the device idle before and after it."""
    times = []
    for number in range(WARM_UP + CALLS):
        _settle(frames.device)
        start = time.perf_counter()
        run(frames)
        _settle(frames.device)
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
