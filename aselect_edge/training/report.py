"""The images that are left after training, for people to judge by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aselect_edge.evaluation.plots import draw_confusion, draw_curve, draw_examples
from aselect_edge.training.answers import answer_frames
from aselect_edge.training.goal import Goal
from aselect_edge.training.recipe import Outcome
from aselect_runtime.frames import resize, restore
from aselect_runtime.records import Resize

EXAMPLES = 6
TITLES = {"miou": "val mIoU", "top1": "val top-1 accuracy"}


def draw_report(outcome: Outcome, goal: Goal, how: Resize, folder: Path) -> None:
    """Draw `curve.png`, and of val `confusion.png` and `examples.png`, into a folder."""
    figures, classes, val = outcome.figures, goal.val.classes, goal.val
    draw_curve(outcome.curve, ("samples", "loss", TITLES[figures.metric]), folder / "curve.png")
    draw_confusion(figures.matrix, classes, folder / "confusion.png")
    rows = []
    for index in np.linspace(0, len(val) - 1, min(EXAMPLES, len(val)), dtype=int):
        frame, label = val.read(int(index))
        inputs = resize(frame, outcome.model.imgsz, how)[None]
        answer = answer_frames(outcome.model, inputs, val, outcome.model.imgsz)[0]
        seen = restore(answer, frame.shape[:2], how) if figures.metric == "miou" else int(answer.argmax())
        rows.append((frame, label, seen))
    draw_examples(rows, classes, folder / "examples.png")
