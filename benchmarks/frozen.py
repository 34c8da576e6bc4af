"""The information in frozen features: ridge regression from the mean of the tokens to cub40's classes, in closed form.

    python -m benchmarks.frozen [--backbone shipped] [--timestep 20] [--taps 4.hidden,5.attn,5.mlp,6.hidden]

The backbone, the same architecture with random weights (adaLN-Zero), and, where its weights are installed, the
teacher's pooled features. Fitted on train and its mirrored images, top-1 on test. Needs $ASELECT_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.family import expand
from aselect_edge.data import ClassificationData, open_classification
from aselect_edge.fold import fixed_noise
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_edge.training.run import randomised
from aselect_edge.training.views import to_pixels
from aselect_runtime.errors import InputError
from aselect_runtime.frames import resize
from aselect_runtime.records import Resize, Tap
from benchmarks.harness import save, stamp

BATCH = 20
Features = Callable[[Tensor], dict[str, Tensor]]
"""Pixels (N, 3, H, W), BGR, 0..255 -> features (N, D) by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="shipped")
    parser.add_argument("--timestep", type=float, default=20)
    parser.add_argument("--taps", default="4.hidden,5.attn,5.mlp,6.hidden")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--damping", type=float, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/frozen.json"))
    arguments = parser.parse_args()
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds cub40; set it")
    folder = Path(os.environ["ASELECT_DATA"]) / "cub40"
    train, test = (open_classification(folder, split) for split in ("train", "test"))
    taps = [Tap.parse(tap) for tap in arguments.taps.split(",")]
    loaded = load_backbone(arguments.backbone)
    ways: dict[str, Features] = {
        "backbone": tokens(loaded, taps, arguments.timestep, arguments.size),
        "random weights": tokens(randomised(loaded, 0), taps, arguments.timestep, arguments.size),
    }
    try:
        teacher = load_efficientnet()
        ways["teacher"] = lambda pixels: {"pooled": teacher(pixels.flip(1)).pooled}
    except InputError as error:
        print(error, file=sys.stderr)
    rows = {}
    for name, features in ways.items():
        fitted, held = (
            read(data, features, arguments.size, mirrors) for data, mirrors in ((train, True), (test, False))
        )
        labels = torch.tensor(train.labels).repeat(2), torch.tensor(test.labels)
        rows[name] = {
            tap: 100 * ridge(fitted[tap], labels[0], held[tap], labels[1], arguments.damping) for tap in fitted
        }
        print(name, {tap: f"{value:.1f} %" for tap, value in rows[name].items()})
    job = {key: value for key, value in vars(arguments).items() if key != "out"}
    save(arguments.out, {**stamp(), "job": job, "test top-1 [%]": rows})


def tokens(backbone: LoadedBackbone, taps: list[Tap], timestep: float, size: int) -> Features:
    """The mean token of every tap at one timestep, with one fixed draw of noise."""
    (level,) = backbone.schedule.levels([timestep])
    eps = fixed_noise((backbone.model.channels, *backbone.encoder.size(size, size)), 0)

    def features(pixels: Tensor) -> dict[str, Tensor]:
        x = level.alpha * backbone.x0(pixels) + level.sigma * eps
        fed = torch.full((len(x),), level.model_timestep)
        seen = backbone.model.features(x, fed, expand(backbone.condition, len(x), x.device), taps)
        return {str(tap): value.mean(1) for tap, value in seen.items()}

    return features


@torch.no_grad()
def read(data: ClassificationData, features: Features, size: int, mirrors: bool) -> dict[str, Tensor]:
    """Features (N, D) of all images by name; with `mirrors`, followed by those of their mirrored images."""
    parts: list[dict[str, Tensor]] = []
    for mirrored in (False, True) if mirrors else (False,):
        for start in range(0, len(data), BATCH):
            frames = [data.read(i)[0] for i in range(start, min(start + BATCH, len(data)))]
            stacked = torch.stack([torch.from_numpy(resize(frame, (size, size), Resize())) for frame in frames])
            pixels = to_pixels(stacked.numpy())
            parts.append(features(pixels.flip(3) if mirrored else pixels))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def ridge(x: Tensor, y: Tensor, held: Tensor, truth: Tensor, damping: float) -> float:
    """Top-1 on (held, truth) of the closed-form ridge regression from standardised x (N, D) to one-hot y."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    a, b = (torch.cat([(each - mean) / deviation, torch.ones(len(each), 1)], 1).double() for each in (x, held))
    target = F.one_hot(y).double()
    weights = torch.linalg.solve(a.T @ a + damping * torch.eye(a.shape[1], dtype=torch.float64), a.T @ target)
    return float(((b @ weights).argmax(1) == truth).double().mean())


if __name__ == "__main__":
    main()
