"""The information in frozen features: ridge regression from tokens to classes, in closed form.

    python -m benchmarks.frozen [--seeds 3] [--only cub40] [--backbone shipped]
    python -m benchmarks.frozen --control runs/taught runs/alone

Compared are the backbone, the same architecture with random weights (adaLN-Zero, a seed each) and, for cub40 and where
its weights are installed, the teacher's pooled features. cub40: the mean over the tokens, top-1. CamVid: every token to
the class at its centre, mIoU over tokens. Fitted on train (of cub40 also its mirrored images), scored on test. Needs
$ASELECT_DATA.

`--control` compares two pretraining runs of the same budget, with a teacher and without one, and keeps the rest of the
result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.family import expand
from aselect_edge.data import LabelledData, SegmentationData, open_data
from aselect_edge.evaluation.metrics import Confusion
from aselect_edge.fold import fixed_noise
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_edge.training.run import randomised
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError
from aselect_runtime.frames import resize, resize_label
from aselect_runtime.records import Resize, Tap, Task
from benchmarks.harness import load, save, stamp

BATCH = 16
RESULT = Path("benchmarks/results/frozen.json")
Features = Callable[[Tensor], dict[str, Tensor]]
"""Pixels (N, 3, H, W), BGR, 0..255 -> tokens (N, T, D) by name."""


@dataclass(frozen=True)
class Job:
    """A data set, and the taps that are read on it."""

    folder: str
    task: Task
    imgsz: tuple[int, int]
    timestep: float
    taps: tuple[str, ...]
    mirrored: bool = True
    """Whether the mirrored images of train are fitted too."""
    damping: float = 100


JOBS = (
    Job("cub40", "cls", (224, 224), 20, ("4.hidden", "5.attn", "5.mlp", "6.hidden")),
    Job("camvid", "seg", (288, 384), 0, ("4.hidden", "4.mlp", "5.attn"), mirrored=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="shipped")
    parser.add_argument("--seeds", type=int, default=3, help="of the random weights")
    parser.add_argument("--only", choices=[job.folder for job in JOBS])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--control", nargs=2, type=Path, metavar=("TAUGHT", "ALONE"))
    arguments = parser.parse_args()
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds cub40 and camvid; set it")
    if arguments.control:
        taught, alone = arguments.control
        found = control(taught, alone, Path(os.environ["ASELECT_DATA"]))
        save(arguments.out, load(arguments.out) | {"control": stamp() | found})
        print(arguments.out)
        return
    backbone, data = load_backbone(arguments.backbone), Path(os.environ["ASELECT_DATA"])
    for job in JOBS:
        if arguments.only in (None, job.folder):
            found = measure(job, backbone, data / job.folder, arguments.seeds)
            save(arguments.out, load(arguments.out) | {job.folder: stamp() | found})
    print(arguments.out)


def control(taught: Path, alone: Path, data: Path) -> dict[str, Any]:
    """Scores [0, 1] by data set, run and tap; raises InputError for runs of different recipes or lengths."""
    curves = [json.loads((folder / "curve.json").read_text(encoding="utf-8")) for folder in (taught, alone)]
    images, other = (curve["rows"][-1][0] for curve in curves)
    if (curves[0]["recipe"], images) != (curves[1]["recipe"], other):
        raise InputError(
            f"{alone}: got a run of another recipe or length than {taught}, expected the same; train it again"
        )
    found: dict[str, Any] = {"images": images, "batch": curves[0]["recipe"]["batch"]}
    for job in JOBS:
        train, test = _splits(job, data / job.folder)
        runs = {"taught": load_backbone(str(taught)), "alone": load_backbone(str(alone))}
        found[job.folder] = {
            name: _shown(job, name, fitted(job, tokens(job, backbone), train, test)) for name, backbone in runs.items()
        }
    return found


def _splits(job: Job, folder: Path) -> tuple[LabelledData, LabelledData]:
    return open_data(folder, "train", job.task), open_data(folder, "test", job.task)


def measure(job: Job, backbone: LoadedBackbone, folder: Path, seeds: int) -> dict[str, Any]:
    """Scores [0, 1] by features and tap: `trained` and `teacher` one each, `random` one for each seed."""
    train, test = _splits(job, folder)
    scores: dict[str, Any] = {"trained": _shown(job, "trained", fitted(job, tokens(job, backbone), train, test))}
    if job.task == "cls":
        try:
            teacher = load_efficientnet()
            pooled = replace(job, imgsz=(224, 224))
            scores["teacher"] = _shown(
                job, "teacher", fitted(pooled, lambda x: {"pooled": teacher(x.flip(1)).pooled[:, None]}, train, test)
            )
        except InputError as error:
            print(error, file=sys.stderr)
    each = [
        _shown(job, f"random {seed}", fitted(job, tokens(job, randomised(backbone, seed)), train, test))
        for seed in range(seeds)
    ]
    scores["random"] = {tap: [run[tap] for run in each] for tap in job.taps}
    return {"job": asdict(job), "images": [len(train), len(test)], "scores": scores}


def _shown(job: Job, name: str, scores: dict[str, float]) -> dict[str, float]:
    print(job.folder, name, {tap: f"{100 * value:.1f} %" for tap, value in scores.items()}, flush=True)
    return scores


def tokens(job: Job, backbone: LoadedBackbone) -> Features:
    """The tokens of every tap at the job's timestep, with one fixed draw of noise."""
    (level,) = backbone.schedule.levels([job.timestep])
    eps = fixed_noise((backbone.model.channels, *backbone.encoder.size(*job.imgsz)), 0)
    taps = [Tap.parse(tap) for tap in job.taps]

    def features(pixels: Tensor) -> dict[str, Tensor]:
        x = level.alpha * backbone.x0(pixels) + level.sigma * eps
        fed = torch.full((len(x),), level.model_timestep)
        seen = backbone.model.features(x, fed, expand(backbone.condition, len(x), x.device), taps)
        return {str(tap): value for tap, value in seen.items()}

    return features


@torch.no_grad()
def fitted(job: Job, features: Features, train: LabelledData, test: LabelledData) -> dict[str, float]:
    """Fit one ridge regression a name of `features` on `train`, and score it on `test`."""
    classes = len(train.classes)
    sums: dict[str, Ridge] = {}
    for mirrored in (False, True) if job.mirrored else (False,):
        for pixels, labels in batches(job, train, mirrored):
            for name, feature in features(pixels).items():
                rows, targets = paired(feature, labels, classes)
                sums.setdefault(name, Ridge(rows.shape[1], classes)).add(rows, targets)
    weights = {name: ridge.weights(job.damping) for name, ridge in sums.items()}
    counts = {name: Confusion(classes, -1) for name in sums}
    for pixels, labels in batches(job, test, mirrored=False):
        for name, feature in features(pixels).items():
            rows, targets = paired(feature, labels, classes)
            counts[name].update((_biased(rows) @ weights[name]).argmax(1).numpy(), targets.numpy())
    return {name: each.accuracy() if job.task == "cls" else each.miou() for name, each in counts.items()}


def batches(job: Job, data: LabelledData, mirrored: bool) -> Iterator[tuple[Tensor, NDArray[Any]]]:
    """Pixels (N, 3, H, W) and labels: classes (N,), or class maps (N, H, W)."""
    for start in range(0, len(data), BATCH):
        pairs = [data.read(i) for i in range(start, min(start + BATCH, len(data)))]
        pixels = to_pixels(np.stack([resize(frame, job.imgsz, Resize()) for frame, _ in pairs]))
        if isinstance(data, SegmentationData):
            maps = [resize_label(np.asarray(label), job.imgsz, Resize(), data.ignore_index) for _, label in pairs]
            labels = np.stack(maps)
        else:
            labels = np.array([label for _, label in pairs])
        if mirrored:
            pixels, labels = pixels.flip(3), labels[..., ::-1].copy() if labels.ndim > 1 else labels
        yield pixels, labels


def paired(feature: Tensor, labels: NDArray[Any], classes: int) -> tuple[Tensor, Tensor]:
    """Rows (M, D) of tokens (N, T, D) with their classes (M,): an image's mean, or each token with a class."""
    if labels.ndim == 1:
        return feature.mean(1), torch.from_numpy(labels).long()
    height, width = labels.shape[1:]
    side = round((height * width / feature.shape[1]) ** 0.5)
    centres = torch.from_numpy(labels[:, side // 2 :: side, side // 2 :: side].astype(np.int64)).flatten()
    known = centres < classes
    return feature.flatten(0, 1)[known], centres[known]


class Ridge:
    """Ridge regression from standardised features to one-hot classes, from sums over batches of any number."""

    def __init__(self, width: int, classes: int) -> None:
        self.count = 0
        self.gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.target = torch.zeros(width + 1, classes, dtype=torch.float64)

    def add(self, rows: Tensor, classes: Tensor) -> None:
        """Count rows (M, D) of classes (M,)."""
        x = _biased(rows)
        self.count += len(x)
        self.gram += x.T @ x
        self.target += x.T @ F.one_hot(classes, self.target.shape[1]).double()

    def weights(self, damping: float) -> Tensor:
        """Float64 weights (D+1, C) for features that are not standardised, with a one appended to each."""
        mean = self.gram[-1, :-1] / self.count
        spread = (self.gram.diagonal()[:-1] / self.count - mean**2).clamp(min=0) * self.count / (self.count - 1)
        deviation = spread.sqrt() + 1e-6
        standardise = torch.diag(torch.cat([1 / deviation, torch.ones(1, dtype=torch.float64)]))
        standardise[-1, :-1] = -mean / deviation
        gram = standardise.T @ self.gram @ standardise
        damped = gram + damping * torch.eye(len(gram), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(damped, standardise.T @ self.target)
        return standardise @ solved


def _biased(rows: Tensor) -> Tensor:
    return torch.cat([rows.double(), torch.ones(len(rows), 1, dtype=torch.float64)], 1)


if __name__ == "__main__":
    main()
