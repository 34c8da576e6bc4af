"""What pretraining and selection buy: the shipped recipe beside its baselines, same head and data.

    python -m benchmarks.comparisons [--work runs/comparisons] [--only NAME] [--out runs/comparisons.json]

The fine-tuned rows share one budget and the frozen rows share a smaller one, so compare within each kind. Needs
$ASELECT_DATA and hours of CPU. Each row is one `aselect-train` into `--work`; rows that are there already are
kept, and an interrupted row resumes. The figure is CamVid test mIoU of the torch model, one seed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress

from aselect_edge.bundle import SHIPPED, load_bundle
from aselect_edge.data import open_segmentation
from aselect_edge.files import atomic_write
from aselect_edge.records import Selection, Tap
from aselect_edge.training import Recipe, train_bundle
from aselect_edge.training.loop import evaluate

IMGSZ = (144, 192)
TAPS = (Tap(block=0, component="hidden"), Tap(block=2, component="mlp"))
FINETUNE = Recipe()
FROZEN = replace(FINETUNE, samples=8_000)

ROWS = {
    "fine-tuned from the pretrained backbone (shipped)": ("best", True, False),
    "fine-tuned from random weights": ("best", True, True),
    "frozen, pretrained, selected timestep": ("best", False, False),
    "frozen, pretrained, worst timestep of the scan": ("worst", False, False),
    "frozen, random weights": ("best", False, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/comparisons"))
    parser.add_argument("--backbone", default="shipped")
    parser.add_argument("--selection", type=Path, default=SHIPPED["seg"] / "selection.json")
    parser.add_argument("--only", choices=[slug(row) for row in ROWS], action="append")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/comparisons.json"))
    arguments = parser.parse_args()
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid; set it")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    camvid = Path(os.environ["ASELECT_DATA"]) / "camvid"
    best = Selection.load(arguments.selection)
    selections = {"best": best, "worst": worst_timestep(best)}
    for row, (which, finetune, random) in ROWS.items():
        if arguments.only and slug(row) not in arguments.only:
            continue
        train(row, arguments.work / slug(row), arguments.backbone, selections[which], camvid, finetune, random)
    done = {row: arguments.work / slug(row) for row in ROWS if (arguments.work / slug(row) / "bundle.json").is_file()}
    figures = {row: figures_of(bundle, camvid) for row, bundle in done.items()}
    for row, values in figures.items():
        test, val = values["test_miou"], values["val_miou"]
        print(f"{row:<54} test mIoU {100 * test:5.1f} %   val {100 * val:5.1f} %   {values['samples']:.0f} samples")
    record = {"date": str(datetime.date.today()), "imgsz": IMGSZ, "seeds": 1, "figures": figures}
    atomic_write(arguments.out, json.dumps(record, indent=2) + "\n")


def train(row: str, out: Path, backbone: str, selection: Selection, camvid: Path, finetune: bool, random: bool) -> None:
    """One row, unless its bundle is there."""
    if (out / "bundle.json").is_file():
        return
    recipe = FINETUNE if finetune else FROZEN
    with Progress() as progress:
        task = progress.add_task(row, total=1.0)
        train_bundle(
            "seg",
            backbone,
            selection,
            camvid,
            out,
            TAPS,
            IMGSZ,
            finetune=finetune,
            random_backbone=random,
            recipe=recipe,
            tell=lambda what, share: progress.update(task, description=f"{row}: {what}", completed=share),
        )


def worst_timestep(selection: Selection) -> Selection:
    """The noise level at which the deeper tap scored lowest."""
    same = [score for score in selection.scores if score.tap == TAPS[-1]]
    return selection.model_copy(update={"noise": min(same, key=lambda score: score.value).noise})


def figures_of(folder: Path, camvid: Path) -> dict[str, float]:
    """Test and val mIoU of a bundle, and the samples it was trained on."""
    bundle = load_bundle(folder)
    test = evaluate(bundle.deployed(), open_segmentation(camvid, "test"), bundle.record.imgsz, bundle.record.resize)
    return {"test_miou": test.miou(), **bundle.record.metrics}


def slug(row: str) -> str:
    """A folder name for a row."""
    return "".join(char if char.isalnum() else "-" for char in row.lower()).replace("--", "-").strip("-")


if __name__ == "__main__":
    main()
