"""`masks.json`."""

from __future__ import annotations

from typing import ClassVar

from aselect_runtime.records.base import Record
from aselect_runtime.records.classes import Classes


class MaskFolder(Record):
    """What a folder of masks holds: the classes that pixel values stand for, and the names of its masks."""

    kind: ClassVar[str] = "masks"

    classes: Classes
    files: tuple[str, ...] = ()
