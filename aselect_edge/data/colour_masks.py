"""Masks with one colour per class, defined by `labelmap.txt`: CVAT's export "Segmentation mask 1.1"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aselect_edge.data.classes import Colour, name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, read_rows
from aselect_edge.data.masks import NO_LABEL, open_png
from aselect_edge.data.sets import SegmentationData
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.media import list_images
from aselect_runtime.records import ClassInfo

FILE, TABLE = "labelmap.txt", "class_dict.csv"
_HEADERS = frozenset({"label:color_rgb:parts:actions", "name,r,g,b", "name:red,green,blue", "label:color_rgb"})
"""Header lines, which define no class, without spaces and in lower case."""
_LISTS, _WHOLE = Path("ImageSets/Segmentation"), "default"
_IMAGES = ("JPEGImages", "images")


@dataclass(frozen=True)
class Coloured:
    """Reads masks whose colours (RGB, or of a palette) are the classes in this order; grey masks hold class indices."""

    colours: tuple[Colour, ...]

    def __call__(self, path: Path) -> Frame:
        """Class map uint8 [H, W]; raises InputError for a colour that is not listed."""
        mode, values = open_png(path, colours=True)
        if mode == "LA":
            mode, values = "L", values[..., 0]
        if mode == "L" and not all(len({*colour}) == 1 for colour in self.colours):
            return self._of_indices(path, values)
        if mode == "L":  # the classes are grey levels
            values = np.repeat(values[..., None], 3, 2)
        if values.ndim != 3 or values.dtype != np.uint8:
            raise InputError(f"{path}: got the mode {mode}, expected colours of 8 bits each; convert it to RGB")
        codes = _codes(values[..., :3])
        known = _codes(np.array(self.colours, np.uint8))
        order = np.argsort(known)
        found = order[np.searchsorted(known[order], codes).clip(max=len(known) - 1)]
        strange = known[found] != codes
        if strange.any():
            colour = ",".join(map(str, values[strange][0, :3]))
            raise InputError(
                f"{path}: got the colour {colour}, expected one of the {len(known)} in {FILE}; add its class there"
            )
        classes: Frame = found.astype(np.uint8)
        return classes

    def _of_indices(self, path: Path, values: NDArray[Any]) -> Frame:
        unknown = [int(v) for v in np.unique(values) if v >= len(self.colours) and v != NO_LABEL]
        if unknown:
            raise InputError(
                f"{path}: got the value {unknown[0]} in a grey mask, expected 0 to {len(self.colours) - 1}, the lines "
                f"of {FILE}, or {NO_LABEL} (no label); correct one of them"
            )
        return values.astype(np.uint8)


def labelmap_of(data: Path) -> Path | None:
    """The file that maps colours to classes, if there is one."""
    return next((data / name for name in (FILE, TABLE) if (data / name).is_file()), None)


def read_labelmap(path: Path) -> tuple[tuple[ClassInfo, ...], Coloured]:
    """Classes in the order of the lines, `name:red,green,blue:parts:actions`, or `name,red,green,blue` of a table."""
    names, colours = [], []
    for number, (line,) in enumerate(read_rows(path, 1)):
        if line.startswith("#") or (number == 0 and line.replace(" ", "").lower() in _HEADERS):
            continue
        name, _, rest = line.partition("," if path.name == TABLE else ":")
        channels = rest.partition(":")[0].split(",")
        if len(channels) != 3 or not all(c.strip().isdecimal() and int(c) <= 255 for c in channels):
            raise InputError(f"{path}: got {line!r}, expected name:red,green,blue with 0 to 255 each; correct it")
        red, green, blue = map(int, channels)
        names.append(name.strip())
        colours.append((red, green, blue))
    if len(set(colours)) < len(colours):
        raise InputError(f"{path}: got two classes of the same colour, expected one each; correct it")
    return name_classes(names, path, colours), Coloured(tuple(colours))


def _codes(colours: Frame) -> NDArray[np.int64]:
    """A number for each colour (…, 3)."""
    codes: NDArray[np.int64] = colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return codes


def _lists(data: Path) -> dict[str, Path]:
    """The list of each split; without one for `train`, the list of all images is used for it."""
    lists = {split: data / _LISTS / f"{split}.txt" for split in ("train", "val", "test")}
    there = {split: path for split, path in lists.items() if path.is_file()}
    whole = data / _LISTS / f"{_WHOLE}.txt"
    return {"train": whole, **there} if whole.is_file() else there


def _fits(data: Path) -> bool:
    return (data / FILE).is_file() and (data / "SegmentationClass").is_dir()


def _read(data: Path, split: str) -> SegmentationData:
    source = _lists(data)[split]
    names = [row[0].strip('"') for row in read_rows(source, 1)]
    classes, decode = read_labelmap(data / FILE)
    labels = listed(data / "SegmentationClass", (f"{name}.png" for name in names), source)
    return SegmentationData(
        tuple(zip(_images(data, names, source), labels, strict=True)), classes, NO_LABEL, decode, data / FILE
    )


def _images(data: Path, names: Sequence[str], source: Path) -> list[Path]:
    folder = next((data / name for name in _IMAGES if (data / name).is_dir()), None)
    if folder is None:
        raise InputError(
            f"{data}: got no {_IMAGES[0]}/, expected a folder with the images; export with images, or add them"
        )
    there = {path.relative_to(folder).with_suffix(""): path for path in list_images(folder)}
    return listed(folder, (str(there.get(Path(n), folder / f"{n}.jpg").relative_to(folder)) for n in names), source)


CVAT = Layout(
    "CVAT's segmentation mask",
    f"{FILE}, SegmentationClass/, {_LISTS}/{_WHOLE}.txt and JPEGImages/",
    _fits,
    lambda data: tuple(_lists(data)),
    _read,
)
