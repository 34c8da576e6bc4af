"""Accuracy of a bundle, an export folder, a single graph or an engine on labelled images.

All are measured by `aselect_edge.evaluation`, as in training.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aselect_edge.data import LabelledData, SegmentationData, is_labelled, open_data
from aselect_edge.data.readers import labels_of
from aselect_edge.data.spread import evenly
from aselect_edge.evaluation import measure
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.team import ALONE, Team, assemble
from aselect_export.predictors import Predictor, open_alike
from aselect_runtime.errors import InputError
from aselect_runtime.files import check_place
from aselect_runtime.options import Device
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import ClassInfo, Task


@dataclass(frozen=True)
class Evaluation:
    """The result: mIoU (seg) or top-1 accuracy (cls) as `score`, and per class (None: class absent)."""

    model: str
    data: str
    split: str
    device: str
    task: Task
    images: int
    metric: str
    score: float
    others: dict[str, float]
    """The other figures of the task; see `metrics.Figures`."""
    per_class: dict[str, float | None]
    """IoU (seg), or recall (cls)."""

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))


def evaluate(
    model: str | Path,
    data: str | Path,
    split: str = "test",
    device: Device = "auto",
    progress: Progress = silent,
    *,
    report: str | Path | None = None,
) -> Evaluation:
    """Measure a bundle (through torch) or an export folder, .onnx or .engine file (through the runtime) on a split.

    With `report` (.html), write a page with the figures, every class and the confusion matrix. Raises InputError if the
    model or the data cannot be used, or if their classes differ, WriteError for a report that cannot be written; also
    the errors of `open_model`. Processes that torchrun started share the images and return the same figures; the first
    one writes the page.
    """
    page = None if report is None else Path(report)
    if page is not None and page.suffix != ".html":
        raise InputError(f"got the report {str(report)!r}, expected a name that ends in .html; change it")
    if page is not None:
        check_place(page)  # before the images, which may take hours
    with assemble() as team:
        opened = open_alike(Path(model), device, progress, team)
        try:
            found = accuracy(opened, Path(data), split, progress, team=team)
        finally:
            opened.close()
    per_class = dict(zip((info.name for info in opened.classes), found.per_class, strict=True))
    measured = (found.images, found.metric, found.score, found.others, per_class)
    evaluation = Evaluation(str(model), str(data), split, opened.device, opened.task, *measured)
    if page is not None and team.leads:
        _write_report(page, evaluation, found, opened.classes)
    return evaluation


def _write_report(page: Path, evaluation: Evaluation, found: Figures, classes: tuple[ClassInfo, ...]) -> None:
    from aselect_edge.evaluation.page import Section, write_page
    from aselect_edge.evaluation.plots import draw_confusion

    title = {"miou": "mIoU", "top1": "top-1 accuracy"}[found.metric]
    facts = {
        title: f"{found.score:.4f} on {found.images} images of {evaluation.split}",
        **{name.replace("_", " "): f"{value:.4f}" for name, value in found.others.items()},
        "model": evaluation.model,
        "data": evaluation.data,
        "run on": evaluation.device,
    }
    what = "Intersection over union." if found.metric == "miou" else "Recall of the class."
    with tempfile.TemporaryDirectory() as scratch:
        plot = Path(scratch) / "confusion.png"
        draw_confusion(found.matrix, classes, plot)
        sections = [
            Section("Figures", facts=facts),
            Section("Every class", what, bars=evaluation.per_class),
            Section("Confusion", "Rows are true classes, columns what was predicted, in percent.", plot=plot),
        ]
        write_page(page, f"{Path(evaluation.model).name} on {evaluation.split}: {title} {found.score:.3f}", sections)


def accuracy(
    model: Predictor,
    data: Path,
    split: str,
    progress: Progress = silent,
    most: int | None = None,
    team: Team = ALONE,
) -> Figures:
    """Figures on a split, which a `team` shares; if it has more than `most` images, on that many spread over it.

    Raises InputError for images without any label: their figures would be zeros, whatever the model answers.
    """
    images = _in_classes_of(model, _opened(model.task, data, split), data)
    if most is not None and most < len(images):
        images = images.subset(evenly(len(images), most))
    batch, height, width = model.shape
    found = measure(model.predict, images, (height, width), model.resize, batch, progress, team)
    if not found.matrix.any():
        raise InputError(
            f"{data}: got no labelled pixel in {found.images} images of {split}, expected some to measure on; "
            "label them or choose another split",
            parameter=("data", "split"),
        )
    return found


def has_labels_of(data: Path, split: str, task: Task, classes: tuple[ClassInfo, ...]) -> bool:
    """Whether a split can be scored in these classes; folders per camera or day may look like classes."""
    if not is_labelled(data, split, task):
        return False
    found, expected = ([info.name for info in each] for each in (_opened(task, data, split).classes, classes))
    return found == expected if task == "seg" else set(found) <= set(expected)


def _opened(task: Task, data: Path, split: str) -> LabelledData:
    if (found := labels_of(data, task)) and found[0] != task:
        other, layout = found
        raise InputError(
            f"{data}: got labels of the task {other} ({layout.name}), expected some of the model's task {task}; give "
            f"other data, or a model that aselect-train --task {other} made",
            parameter="data",
        )
    return open_data(data, split, task)


def _in_classes_of(model: Predictor, images: LabelledData, where: Path) -> LabelledData:
    """The images with their labels in the model's order of classes; for a classifier some classes may be missing."""
    found, expected = ([info.name for info in each.classes] for each in (images, model))
    if found == expected:
        return images
    if isinstance(images, SegmentationData) or not set(found) <= set(expected):
        raise InputError(
            f"{where}: got the classes {', '.join(found)}, expected the model's: {', '.join(expected)}; "
            "evaluate on data with the classes that the model was trained on"
        )
    labels = tuple(expected.index(found[label]) for label in images.labels)
    return replace(images, labels=labels, classes=model.classes)
