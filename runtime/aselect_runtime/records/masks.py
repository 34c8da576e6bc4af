"""The record `masks.json`: a folder of masks."""

from __future__ import annotations

from typing import ClassVar

from aselect_runtime.records.base import Record
from aselect_runtime.records.classes import Classes


class MaskFolder(Record):
    """The content of a folder of masks: the classes that the pixel values mean, and the file names."""

    kind: ClassVar[str] = "masks"

    classes: Classes
    files: tuple[str, ...] = ()
