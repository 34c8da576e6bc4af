"""Labelled images in common folder layouts: one function per task opens them, with one small reader per layout.

`docs/data.md` shows each layout. A layout is recognised by what is in the folder.
"""

from __future__ import annotations

from PIL import Image

from aselect_edge.data.classes import read_classes
from aselect_edge.data.readers import images_of, is_labelled, open_classification, open_data, open_segmentation
from aselect_edge.data.sets import ClassificationData, LabelledData, SegmentationData

Image.MAX_IMAGE_PIXELS = 2**30
"""OpenCV's limit, for images. Pillow, which reads masks and sizes, would refuse aerial images at a sixth of it."""

__all__ = [
    "ClassificationData",
    "LabelledData",
    "SegmentationData",
    "images_of",
    "is_labelled",
    "open_classification",
    "open_data",
    "open_segmentation",
    "read_classes",
]
