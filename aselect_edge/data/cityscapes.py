"""Cityscapes' fine annotations: a folder per city, masks of label ids, of which 19 classes are evaluated."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.data.classes import Colour, name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed
from aselect_edge.data.masks import NO_LABEL, Remapped
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.media import list_images

_IMAGE, _LABEL = "_leftImg8bit", "_gtFine_labelIds"
_CLASSES: dict[str, tuple[int, Colour]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
_KNOWN = {
    **dict.fromkeys([*range(34), 255], NO_LABEL),  # 255 is the licence plate's -1
    **{label: index for index, (label, _) in enumerate(_CLASSES.values())},
}


def _read(data: Path, split: str) -> SegmentationData:
    images = data / "leftImg8bit" / split
    paths = [path for path in list_images(images) if path.stem.endswith(_IMAGE)]
    names = (f"{path.relative_to(images).with_suffix('')}".removesuffix(_IMAGE) + f"{_LABEL}.png" for path in paths)
    labels = listed(data / "gtFine" / split, names, images)
    classes = name_classes(list(_CLASSES), data, [colour for _, colour in _CLASSES.values()])
    return SegmentationData(tuple(zip(paths, labels, strict=True)), classes, NO_LABEL, Remapped(_KNOWN))


CITYSCAPES = Layout(
    "Cityscapes",
    "leftImg8bit/train/ and gtFine/train/",
    lambda data: (data / "leftImg8bit").is_dir() and (data / "gtFine").is_dir(),
    # The published masks of the test split are empty.
    lambda data: tuple(split for split in ("train", "val") if (data / "leftImg8bit" / split).is_dir()),
    _read,
)
