"""What a rule has found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2

from aselect_runtime.frames import Frame

LONGEST = 1280
"""Pixels of the longer side of a snapshot."""
QUALITY = 85
"""Of its JPEG."""


@dataclass(frozen=True)
class Event:
    """One event, as it is known when it starts and once more when it has ended."""

    id: str
    """The same for start and end, unlike that of any other event; letters, digits, `-` and `_`."""
    rule: str
    class_name: str
    zone: str | None
    stream: int
    """Which input of the run, counted from 0."""
    source: str
    """Its printable name."""
    start: float
    """Unix time of the first frame above the limit."""
    end: float | None
    """Unix time of the frame with which it ended; None while it goes on."""
    seconds: float
    """How long it lasts so far, on the source's own clock."""
    peak: float
    """The highest value so far: a share of the zone's area or a score, 0 to 1."""
    position: float | None = None
    """Of a video, the seconds from its beginning to the start of the event; None of a camera."""
    frame: Frame | None = field(default=None, repr=False, compare=False)
    """The frame of the peak, BGR, uint8 [H, W, 3]."""

    @property
    def state(self) -> str:
        """`start` while it goes on, `end` afterwards."""
        return "start" if self.end is None else "end"

    @cached_property
    def snapshot(self) -> bytes | None:
        """The frame of the peak as JPEG, at most LONGEST pixels wide and high; None where the event kept no frame."""
        if self.frame is None:
            return None
        scale = min(1.0, LONGEST / max(self.frame.shape[:2]))
        size = (max(1, round(self.frame.shape[1] * scale)), max(1, round(self.frame.shape[0] * scale)))
        small = self.frame if scale == 1 else cv2.resize(self.frame, size, interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the frame."""
        return {
            "id": self.id,
            "state": self.state,
            "rule": self.rule,
            "class": self.class_name,
            "zone": self.zone,
            "input": self.stream,
            "source": self.source,
            "start": round(self.start, 3),
            "end": None if self.end is None else round(self.end, 3),
            "seconds": round(self.seconds, 3),
            "peak": round(self.peak, 5),
            **({} if self.position is None else {"position": round(self.position, 3)}),
        }


def plain(name: str) -> str:
    """A name reduced to what topics, file names and identifiers take: letters, digits, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:60] or "unnamed"
