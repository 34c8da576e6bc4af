"""The look of all plots, and their writing to a PNG file; through matplotlib, without its pyplot."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
from matplotlib.figure import Figure

from aselect_runtime.files import atomic_file
from aselect_runtime.frames import Frame, stretched

INK, ACCENT, FAINT = "#333333", "#d1495b", "#e4e4e4"
"""Colours of lines and text, of what is pointed out, and of what is absent."""
LONGEST = 480
"""Longest side of a frame in a plot, in pixels."""


def shrunk(frame: Frame) -> Frame:
    """A frame [H, W, 3] BGR in RGB, reduced to the size of a plot."""
    scale = min(1.0, LONGEST / max(frame.shape[:2]))
    height, width = (max(1, round(n * scale)) for n in frame.shape[:2])
    return stretched(frame, (height, width), cv2.INTER_AREA)[..., ::-1]


def save_images(figure: Figure, path: Path) -> None:
    """Write a figure whose axes show images, without their frames and ticks; raises WriteError."""
    for axis in figure.axes:
        axis.set_axis_off()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically; raises WriteError."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary, warnings.catch_warnings():
        # Names in scripts that the font lacks become boxes in a plot; one warning per letter helps nobody.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure.savefig(temporary, dpi=110)
