"""Clean features against noisy ones: the shipped backbone at a noisy timestep, CamVid, paired over seeds.

    python -m benchmarks.clean [--timestep 100] [--seeds 3] [--samples 1600] [--clean-samples 2400] [--clean-lr 1e-5]

A linear head is trained on each kind of features with the same seed, views and budget; mIoU on test. Then the noise is
drawn again, three times, with the weights as they are: how much mIoU and the classes of single pixels change. Needs
$ASELECT_DATA with `camvid`. About accuracy, not time: one thread, small frames and a small budget.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean, pstdev, stdev
from typing import Any

import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import load_bundle, tap_model
from aselect_edge.bundle.folder import LoadedBundle
from aselect_edge.bundle.model import FoldedTapModel, upsample
from aselect_edge.data import SegmentationData, open_segmentation
from aselect_edge.training import RECIPES, CleanRecipe, TrainRequest, train_bundle
from aselect_edge.training.answers import evaluate
from aselect_edge.training.clean import without_noise
from aselect_edge.training.views import to_pixels
from aselect_runtime.frames import resize
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import HeadSpec, Resize, Selection, Tap
from benchmarks.harness import save, stamp
from benchmarks.weights import weights_digest

SIZE = (96, 128)
DRAWS = 3
NOISY, PLAIN, CLEAN, SAMPLED = "noisy", "no noise, not trained", "clean, selected level", "clean, sampled levels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timestep", type=float, default=100)
    parser.add_argument("--tap", type=Tap.parse, default=Tap.parse("4.query"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--clean-samples", type=int, default=2400)
    parser.add_argument("--clean-lr", type=float, default=1e-5)
    parser.add_argument("--every", type=int, default=4, help="of test's images, so many apart")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/clean.json"))
    arguments = parser.parse_args()
    data = Path(os.environ["ASELECT_DATA"]) / "camvid"
    test = open_segmentation(data, "test")
    test = replace(test, pairs=test.pairs[:: arguments.every])
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    with terminal_progress() as progress:
        for seed in range(arguments.seeds):
            for kind in (NOISY, PLAIN, CLEAN, SAMPLED):
                with tempfile.TemporaryDirectory() as name:
                    request = request_of(kind, arguments, seed, data, Path(name) / "bundle")
                    train_bundle(request, progress)
                    row = measure(load_bundle(request.out), test)
                found.setdefault(kind, []).append(row)
                print(seed, kind, {key: f"{value:.4f}" for key, value in row.items()}, flush=True)
            save(arguments.out, record_of(arguments, found))
    print(arguments.out)


def request_of(kind: str, arguments: argparse.Namespace, seed: int, data: Path, out: Path) -> TrainRequest:
    """A run of one kind; all kinds of a seed have the same recipe."""
    backbone = load_backbone("shipped")
    (noise,) = backbone.schedule.levels([arguments.timestep])
    noise = without_noise(noise) if kind == PLAIN else noise
    recipe = replace(RECIPES["seg"], samples=arguments.samples, views=2, synthetic=0.0, seed=seed)
    clean = CleanRecipe(samples=arguments.clean_samples, rate=arguments.clean_lr, synthetic=0.0, seed=seed)
    asked: dict[str, CleanRecipe] = {CLEAN: clean, SAMPLED: replace(clean, levels="sampled")}
    return TrainRequest(
        task="seg",
        source=backbone,
        selection=Selection(backbone="shipped", noise=noise, tap=arguments.tap, strategy="fixed", seed=seed),
        data=data,
        out=out,
        imgsz=SIZE,
        head=HeadSpec(kind="linear", channels=1),
        recipe=recipe,
        clean=asked.get(kind),
    )


def measure(bundle: LoadedBundle, test: SegmentationData) -> dict[str, float]:
    """mIoU on test, and what another draw of the noise changes."""
    models = [drawn(bundle, draw) for draw in range(DRAWS)]
    scores = [evaluate(model, test, SIZE, bundle.record.resize).score for model in models]
    own = evaluate(bundle.deployed(), test, SIZE, bundle.record.resize).score
    figures = {"mIoU": own, "mIoU, std over draws": pstdev(scores), "pixels that change": changing(models, test)}
    found = bundle.record.clean
    return figures | ({} if found is None else {"cosine, before": found.before, "cosine": found.cosine})


def drawn(bundle: LoadedBundle, draw: int) -> FoldedTapModel:
    """The bundle's model with other noise of its own level."""
    record = bundle.record.model_copy(update={"noise_seed": 1000 + draw})
    return tap_model(bundle.backbone(), bundle.reference().head, record).deployed()


@torch.no_grad()
def changing(models: Sequence[FoldedTapModel], test: SegmentationData) -> float:
    """Share of pixels with another class, the mean over pairs of draws."""
    shares = []
    for index in range(len(test)):
        pixels = to_pixels(resize(test.read(index)[0], SIZE, Resize())[None])
        maps = [upsample(model(pixels), SIZE).argmax(1) for model in models]
        shares += [float((a != b).float().mean()) for a, b in combinations(maps, 2)]
    return mean(shares)


def record_of(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The result: each seed's figures, their means, and the differences to the noisy features, seed by seed."""
    job = {key: value if isinstance(value, (int, float)) else str(value) for key, value in vars(arguments).items()}
    del job["out"]
    rows = {}
    for kind, runs in found.items():
        gains = [run["mIoU"] - noisy["mIoU"] for run, noisy in zip(runs, found[NOISY], strict=False)]
        rows[kind] = {key: mean(run[key] for run in runs) for key in runs[0]} | {
            "gain": mean(gains),
            "gain, std": stdev(gains) if len(gains) > 1 else 0.0,
        }
    return {**stamp("1 thread"), "job": job, "weights": weights_digest("shipped"), "rows": rows, "runs": found}


if __name__ == "__main__":
    main()
