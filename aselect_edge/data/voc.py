"""Pascal VOC's segmentation: palette PNGs, and lists of names. VOC2012 as unpacked, or other data in its format."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.data.classes import FILE, Colour, name_classes, read_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, read_rows
from aselect_edge.data.masks import NO_LABEL
from aselect_edge.data.sets import SegmentationData

_NAMES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
_LISTS = "ImageSets/Segmentation"


def _read(data: Path, split: str) -> SegmentationData:
    source = data / _LISTS / f"{split}.txt"
    names = [row[0] for row in read_rows(source, 1)]
    images = listed(data / "JPEGImages", (f"{name}.jpg" for name in names), source)
    labels = listed(data / "SegmentationClass", (f"{name}.png" for name in names), source)
    pairs = tuple(zip(images, labels, strict=True))
    if (data / FILE).is_file():
        classes, ignore = read_classes(data / FILE)
        return SegmentationData(pairs, classes, ignore, named_in=data / FILE)
    classes = name_classes(_NAMES, source, [_colour(index) for index in range(len(_NAMES))])
    return SegmentationData(pairs, classes, NO_LABEL)


def _colour(index: int) -> Colour:
    """VOC's colour map: the bits of the index, assigned to red, green and blue in turn from the highest bit down."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


VOC = Layout(
    "Pascal VOC",
    f"JPEGImages/, SegmentationClass/ and {_LISTS}/train.txt",
    lambda data: (data / "SegmentationClass").is_dir() and (data / _LISTS).is_dir(),
    lambda data: tuple(split for split in ("train", "val", "test") if (data / _LISTS / f"{split}.txt").is_file()),
    _read,
)
