"""What a distilled stem costs in accuracy: a real encoder (taef2), a head trained on CamVid, mIoU on val with both.

    python -m benchmarks.encoder_drop [--samples 8000] [--out runs/encoder_drop.json]

Needs $ASELECT_DATA with `camvid` and `taesd`. No published DiT takes taef2's latents, so that the blocks are random:
the figures say what is lost between encoder and stem, not how good a pretrained model is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from aselect_edge.backbones import DiT, DiTConfig
from aselect_edge.bundle import DistilledTapModel, TapModel
from aselect_edge.distillation.head import train_head
from aselect_edge.distillation.learner import StemLearner
from aselect_edge.distillation.run import LATENT, RECIPE
from aselect_edge.distillation.views import open_views
from aselect_edge.heads import build_head
from aselect_edge.training import RECIPES
from aselect_edge.training.answers import evaluate
from aselect_edge.training.goal import open_goal
from aselect_edge.training.loop import learn, train_model
from aselect_runtime.progress import Progress, terminal_progress
from aselect_runtime.records import BackboneSource, Bundle, HeadSpec, Noise, Resize, StemSpec, Tap
from benchmarks.harness import rows, save, stamp
from tests.edge.taesd import load_taesd

SIZE = (96, 128)
NOISE = Noise(alpha=0.995, sigma=0.1, model_timestep=50)
TAP = Tap.parse("1.query")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000, help="of the stem, and as many of the head before it")
    parser.add_argument("--out", type=Path, default=Path("runs/encoder_drop.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, terminal_progress() as progress:
        figures = measure(Path(os.environ["ASELECT_DATA"]), Path(name), arguments.samples, progress)
    record = {**stamp(), "arguments": {"samples": arguments.samples}, "figures": figures}
    print(rows(f"{record['date']}, {record['machine']}", figures))
    save(arguments.out, record)
    print(arguments.out)


def measure(data: Path, folder: Path, samples: int, progress: Progress) -> dict[str, float]:
    """mIoU on CamVid's val of the full model, of the stem with the head from answers, and with labels besides."""
    torch.manual_seed(0)
    how = Resize()
    full = random_model(data / "taesd" / "taef2_encoder.safetensors")
    own = replace(RECIPES["seg"], samples=samples, synthetic=0.0, views=4)
    goal = open_goal("seg", data / "camvid", own)
    train_model(full, goal, how, own, folder / "head", progress=progress)
    recipe = replace(RECIPE, samples=samples, views=4)
    views = open_views(data / "camvid", 4096, SIZE, how, recipe, "seg")
    spec = StemSpec(stride=8, outputs=full.backbone.width, width=LATENT[0], blocks=LATENT[1])
    learner = StemLearner(full, "seg", spec, views, recipe, folder / "features", progress, torch.device("cpu"))
    state = learn(learner, recipe, "stem", folder / "stem", progress)
    learner.module.load_state_dict(state.best_weights)
    figures = {"full encoder, val mIoU": miou(full, goal.val, how)}
    found = learner.validate(learner.module)
    figures |= {"agreement on held-out images": found.agreement, "explained variance of features": found.explained}
    stem, head = learner.parts()
    full.head.load_state_dict(head.state_dict())
    figures["stem, head from answers, val mIoU"] = miou(DistilledTapModel(full, stem), goal.val, how)
    train_head(full, learner, record_of(full, goal.train.classes), data / "camvid", recipe, folder / "labels", progress)
    full.head.load_state_dict(head.state_dict())
    figures["stem, head from labels too, val mIoU"] = miou(DistilledTapModel(full, stem), goal.val, how)
    for name, cost in (("full", learner.full_cost), ("stem", learner.cost)):
        figures[f"{name} [M parameters]"] = cost.parameters / 1e6
        figures[f"{name} [G multiply-accumulates]"] = cost.macs / 1e9
    return figures


def random_model(encoder: Path) -> TapModel:
    """Two random blocks on taef2's latents, each a token, with a fresh head."""
    config = DiTConfig(6, 32, in_channels=32, num_layers=2, patch_size=1, sample_size=16, num_embeds_ada_norm=3)
    backbone = DiT(config, tied=True).eval().requires_grad_(False)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.05)
    head = build_head(HeadSpec(kind="conv", channels=64), "seg", [config.width], 11)
    return TapModel(backbone, head, NOISE, [TAP], SIZE, 0, load_taesd(encoder))


def miou(model: TapModel, val: object, how: Resize) -> float:
    return evaluate(model.deployed(), val, SIZE, how).score  # type: ignore[arg-type]


def record_of(full: TapModel, classes: object) -> Bundle:
    config = full.backbone.to_json()
    return Bundle(
        task="seg",
        classes=classes,  # type: ignore[arg-type]
        imgsz=SIZE,
        resize=Resize(),
        backbone=BackboneSource(family="dit", config=config, source="random"),
        taps=(TAP,),
        noise=NOISE,
        head=HeadSpec(kind="conv", channels=64),
    )


if __name__ == "__main__":
    main()
