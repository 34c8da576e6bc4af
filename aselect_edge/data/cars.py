"""Stanford Cars: numbered images; classes and labels in the MATLAB files of its development kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, numbered, read_matlab
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError

_META, _TRAIN = "devkit/cars_meta.mat", "devkit/cars_train_annos.mat"
# The labels of the test images are published separately, in a file next to the development kit or in it.
_TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")


def _source(data: Path, split: str) -> Path | None:
    paths = (data / name for name in (_TEST if split == "test" else (_TRAIN,)))
    return next((path for path in paths if path.is_file()), None)


def _read(data: Path, split: str) -> ClassificationData:
    source = _source(data, split)
    assert source is not None
    names = [str(name) for name in np.atleast_1d(read_matlab(data / _META, "class_names")[0])]
    rows = np.atleast_1d(read_matlab(source, "annotations")[0])
    if not {"fname", "class"} <= set(rows.dtype.names or ()):
        raise InputError(
            f"{source}: got no columns fname and class, expected annotations with labels; download it again"
        )
    paths = listed(data / f"cars_{split}", (str(name) for name in rows["fname"]), source)
    labels = tuple(numbered(str(number), len(names), source) for number in rows["class"])
    return ClassificationData(tuple(paths), labels, name_classes(names, data / _META))


CARS = Layout(
    "Stanford Cars",
    f"cars_train/, {_META} and {_TRAIN}",
    lambda data: (data / _META).is_file(),
    lambda data: tuple(split for split in ("train", "test") if _source(data, split)),
    _read,
)
