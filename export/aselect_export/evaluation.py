"""Accuracy of a bundle, an export folder or a lone graph on labelled images.

Segmentation is measured by `aselect_edge.evaluation`, as training measures it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from aselect_edge.errors import InputError
from aselect_edge.frames import list_images, read_image, resize
from aselect_edge.records import ClassInfo, Resize, Task
from aselect_runtime import open_model

if TYPE_CHECKING:
    from aselect_edge.bundle import LoadedBundle

Frames = NDArray[np.uint8]
Metric = Literal["miou", "top1"]
Item = TypeVar("Item")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Model:
    """Something to be evaluated: frames uint8 [N, H, W, 3] to class_map [N, H, W] or scores [N, C]."""

    task: Task
    classes: tuple[ClassInfo, ...]
    resize: Resize
    shape: tuple[int, int, int]
    """Batch, height, width."""
    predict: Callable[[Frames], NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """What came out: mIoU (seg) or top-1 accuracy (cls) as `score`, and the same per class (None: class absent)."""

    model: str
    data: str
    split: str
    task: Task
    images: int
    metric: str
    score: float
    per_class: dict[str, float | None]

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))


def evaluate(model: Path, data: Path, split: str = "test", progress: Progress = lambda _done, _all: None) -> Evaluation:
    """Measure a bundle (through torch), an export folder or a .onnx file (through ONNX Runtime) on a split of `data`.

    Raises InputError if the model or the data cannot be used, or if their classes differ.
    """
    opened = _open(model)
    metric, score, per_class, images = accuracy(opened, data, split, progress)
    classes = dict(zip((info.name for info in opened.classes), per_class, strict=True))
    return Evaluation(str(model), str(data), split, opened.task, images, metric, score, classes)


def accuracy(
    model: Model,
    data: Path,
    split: str,
    progress: Progress = lambda _done, _all: None,
    most: int | None = None,
) -> tuple[Metric, float, list[float | None], int]:
    """Metric, score, score per class and number of images; of a split with more than `most`, so many spread over it."""
    measure = _segmentation if model.task == "seg" else _classification
    return measure(model, data, split, progress, most)


def is_labelled(data: Path, split: str, task: Task) -> bool:
    """Whether `data` looks like a split root with labels for a task."""
    if task == "seg":
        return (data / split / "labels").is_dir()
    return (data / split).is_dir() and any(path.is_dir() for path in (data / split).iterdir())


def _open(path: Path) -> Model:
    if (path / "bundle.json").exists():
        from aselect_edge.bundle import load_bundle

        return _torch_model(load_bundle(path))
    return _onnx_model(path)


def _torch_model(bundle: LoadedBundle) -> Model:
    import torch

    from aselect_export.graph import DeployedGraph

    record = bundle.record
    graph = DeployedGraph(bundle.deployed(), record.task).eval()

    def predict(frames: Frames) -> NDArray[Any]:
        with torch.inference_mode():
            answer: NDArray[Any] = graph(torch.from_numpy(frames))[0].numpy()
        return answer

    return Model(record.task, record.classes, record.resize, (1, *record.imgsz), predict)


def _onnx_model(path: Path) -> Model:
    manifest, session = open_model(path, "cpu")
    batch, height, width, _ = manifest.input.shape
    name = manifest.outputs[0].name

    def predict(frames: Frames) -> NDArray[Any]:
        return session.infer(frames)[name]

    return Model(manifest.task, manifest.classes, manifest.resize, (batch, height, width), predict)


def _segmentation(
    model: Model, data: Path, split: str, progress: Progress, most: int | None
) -> tuple[Metric, float, list[float | None], int]:
    from aselect_edge.data import open_segmentation
    from aselect_edge.evaluation import segmentation_confusion

    images = open_segmentation(data, split)
    _check_classes([info.name for info in images.classes], model, data)
    images = replace(images, pairs=tuple(_spread(images.pairs, most)))
    batch, *size = model.shape
    confusion = segmentation_confusion(model.predict, images, (size[0], size[1]), model.resize, batch, progress)
    per_class = [None if np.isnan(value) else float(value) for value in confusion.iou()]
    return "miou", float(confusion.miou()), per_class, len(images)


def _classification(
    model: Model, data: Path, split: str, progress: Progress, most: int | None
) -> tuple[Metric, float, list[float | None], int]:
    root = data / split
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    _check_classes([path.name for path in folders], model, root)
    names = [info.name for info in model.classes]
    images = _spread([(path, names.index(folder.name)) for folder in folders for path in list_images(folder)], most)
    right, total = np.zeros(len(names)), np.zeros(len(names))
    batch, *size = model.shape
    for start in range(0, len(images), batch):
        group = images[start : start + batch]
        frames = [resize(read_image(path), (size[0], size[1]), model.resize) for path, _ in group]
        # A graph's batch is fixed: the last one is filled up by repeating its last frame.
        scores = model.predict(np.stack(frames + frames[-1:] * (batch - len(group))))
        for score, (_, label) in zip(scores, group, strict=False):
            total[label] += 1
            right[label] += int(score.argmax()) == label
        progress(start + len(group), len(images))
    per_class = [float(r / t) if t else None for r, t in zip(right, total, strict=True)]
    return "top1", float(right.sum() / total.sum()), per_class, len(images)


def _spread(items: Sequence[Item], most: int | None) -> Sequence[Item]:
    count = len(items) if most is None else min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _check_classes(found: list[str], model: Model, where: Path) -> None:
    expected = [info.name for info in model.classes]
    # Folders come sorted by name, so for classification the order says nothing.
    same = found == expected if model.task == "seg" else bool(found) and set(found) <= set(expected)
    if not same:
        raise InputError(
            f"{where}: got the classes {', '.join(found) or 'none'}, expected the model's: {', '.join(expected)}; "
            "evaluate on data with the classes that the model was trained on"
        )
