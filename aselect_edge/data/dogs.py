"""Stanford Dogs: a folder per breed, and lists of the images to train and to test on as MATLAB files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, read_matlab
from aselect_edge.data.sets import ClassificationData

_SPLITS = ("train", "test")


def _list(data: Path, split: str) -> Path | None:
    """A list of the split; it may be in the folder `lists/`, because the archive unpacks without one."""
    paths = (data / folder / f"{split}_list.mat" for folder in ("", "lists"))
    return next((path for path in paths if path.is_file()), None)


def _read(data: Path, split: str) -> ClassificationData:
    breeds = sorted({PurePosixPath(name).parent.name for one in _SPLITS for name in _names(data, one)})
    source = _list(data, split)
    assert source is not None
    paths = listed(data / "Images", _names(data, split), source)
    index = {breed: number for number, breed in enumerate(breeds)}
    classes = name_classes([breed.partition("-")[2] or breed for breed in breeds], source)  # n02085620-Chihuahua
    return ClassificationData(tuple(paths), tuple(index[path.parent.name] for path in paths), classes)


def _names(data: Path, split: str) -> list[str]:
    source = _list(data, split)
    return [str(name) for name in np.atleast_1d(read_matlab(source, "file_list")[0])] if source else []


DOGS = Layout(
    "Stanford Dogs",
    "Images/, train_list.mat and test_list.mat (or in lists/)",
    lambda data: (data / "Images").is_dir() and _list(data, "train") is not None,
    lambda data: tuple(split for split in _SPLITS if _list(data, split)),
    _read,
)
