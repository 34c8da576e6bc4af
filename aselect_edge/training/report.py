"""The report of a training run: plots, and a page that shows them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.data import LabelledData
from aselect_edge.data.spread import evenly
from aselect_edge.evaluation.page import Section, write_page
from aselect_edge.evaluation.plots import Example, draw_confusion, draw_curve, draw_examples
from aselect_edge.training.answers import answer_frames
from aselect_edge.training.comparison import ENCODER
from aselect_edge.training.goal import Goal
from aselect_edge.training.recipe import Outcome
from aselect_runtime.frames import resize, restore
from aselect_runtime.records import Resize

EXAMPLES = 6
LOOKED_AT = 120
"""Maximum images of val from which the best and the worst are chosen."""
TITLES = {"miou": "val mIoU", "top1": "val top-1 accuracy"}
REPORT = "report.html"


def draw_report(outcome: Outcome, goal: Goal, how: Resize, folder: Path) -> None:
    """Write `curve.png`, of val `confusion.png`, `examples.png`, `best.png`, `worst.png`, and `report.html`."""
    figures, classes, val = outcome.figures, goal.val.classes, goal.val
    draw_curve(outcome.curve, ("loss", TITLES[figures.metric]), folder / "curve.png", _targets(outcome))
    draw_confusion(figures.matrix, classes, folder / "confusion.png")
    chosen = evenly(len(val), min(LOOKED_AT, len(val)))
    ranked = sorted((_look(outcome, val, how, index)[1], index) for index in chosen)
    few = min(EXAMPLES, len(ranked))
    spread = evenly(len(val), few)
    best, worst = [index for _, index in reversed(ranked[-few:])], [index for _, index in ranked[:few]]
    for name, indices in (("examples", spread), ("best", best), ("worst", worst)):
        draw_examples([_look(outcome, val, how, index)[0] for index in indices], classes, folder / f"{name}.png")
    write_page(
        folder / REPORT, f"Training: {TITLES[figures.metric]} {figures.score:.3f}", _sections(outcome, goal, folder)
    )


def _targets(outcome: Outcome) -> dict[str, float]:
    """What the figure is to be held against."""
    return {ENCODER: outcome.reference.score} if outcome.reference else {}


def _look(outcome: Outcome, val: LabelledData, how: Resize, index: int) -> tuple[Example, float]:
    """An image of val with its answer, and its quality: the share of its labelled pixels that are right, or the margin
    of its class's score."""
    frame, label = val.read(index)
    inputs = resize(frame, outcome.model.imgsz, how)[None]
    answer: NDArray[Any] = answer_frames(outcome.model, inputs, val, outcome.model.imgsz)[0]
    if outcome.figures.metric == "miou":
        known = np.asarray(label) != getattr(val, "ignore_index", -1)
        seen = restore(answer, frame.shape[:2], how)
        return (frame, label, seen), float((seen == label)[known].mean()) if known.any() else 1.0
    others = np.delete(answer, int(label))
    margin = float(answer[int(label)] - others.max()) if len(others) else 1.0
    return (frame, label, int(answer.argmax())), margin


def _sections(outcome: Outcome, goal: Goal, folder: Path) -> list[Section]:
    figures, names = outcome.figures, [info.name for info in goal.val.classes]
    seg = figures.metric == "miou"
    samples, loss = outcome.curve[-1][:2]
    facts = {
        TITLES[figures.metric]: f"{figures.score:.4f} on {figures.images} images",
        **{f"val {name.replace('_', ' ')}": f"{value:.4f}" for name, value in figures.others.items()},
        "trained on": f"{samples} views of {len(goal.train)} images; the last mean loss was {loss:.3f}",
        **{f"{name}, linear head": f"{score:.4f}" for name, score in _targets(outcome).items()},
        "input": "{}x{}".format(*outcome.model.imgsz),
        "taps": ", ".join(map(str, outcome.model.taps)),
    }
    which = "share of labelled pixels that are right" if seg else "margin between the true class and the next one"
    return [
        Section("Figures", facts=facts),
        Section(
            "Learning curve",
            "If the figure still improves at the end, train on more samples. If the loss on val rises while that on "
            "train falls, use fewer samples or add images. Dashed lines: the best figure, and that of an "
            "ImageNet encoder where its weights are installed.",
            plot=folder / "curve.png",
        ),
        Section(
            "Every class",
            "Intersection over union on val. The squares are the colours of the classes in the images below."
            if seg
            else "Recall of the class on val.",
            bars=dict(sorted(zip(names, figures.per_class, strict=True), key=lambda item: -(item[1] or -1.0))),
            colours={info.name: info.colour for info in goal.val.classes} if seg else None,
        ),
        Section(
            "Confusion", "Rows are true classes, columns what was predicted, in percent.", plot=folder / "confusion.png"
        ),
        Section("Worst of val", f"By the {which}. Look for wrong labels first.", plot=folder / "worst.png"),
        Section("Best of val", plot=folder / "best.png"),
        Section("Spread over val", plot=folder / "examples.png"),
    ]
