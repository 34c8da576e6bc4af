"""The event that a rule reports."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2

from aselect_runtime.frames import Frame

LONGEST = 1280
"""Maximum pixels of the longer side of a snapshot."""
QUALITY = 85
"""JPEG quality of a snapshot, 0 to 100."""


@dataclass(frozen=True)
class Event:
    """One event; reported when it starts, and again when it has ended."""

    id: str
    """Unique, the same for start and end; letters, digits, `-` and `_`."""
    rule: str
    class_name: str
    zone: str | None
    stream: int
    """Index of the input in the run, from 0."""
    source: str
    """Printable name of the input."""
    start: float
    """Unix time of the first frame above the limit."""
    end: float | None
    """Unix time of the frame with which it ended; None while it is active."""
    seconds: float
    """Its duration so far, on the source's clock."""
    peak: float
    """The highest value so far: a share of the zone's area or a score, 0 to 1."""
    position: float | None = None
    """In a video, seconds from its beginning to the start of the event; None for a camera."""
    frame: Frame | None = field(default=None, repr=False, compare=False)
    """The frame of the peak, BGR, uint8 [H, W, 3]; None for a destination, which gets the snapshot."""
    jpeg: bytes | None = field(default=None, repr=False, compare=False)
    """The snapshot, once it is encoded."""

    @property
    def state(self) -> str:
        """`start` while it is active, `end` afterwards."""
        return "start" if self.end is None else "end"

    @cached_property
    def snapshot(self) -> bytes | None:
        """The frame of the peak as JPEG, at most LONGEST pixels wide and high; None without a frame."""
        if self.frame is None:
            return self.jpeg
        scale = min(1.0, LONGEST / max(self.frame.shape[:2]))
        size = (max(1, round(self.frame.shape[1] * scale)), max(1, round(self.frame.shape[0] * scale)))
        small = self.frame if scale == 1 else cv2.resize(self.frame, size, interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

    def packed(self) -> Event:
        """The event with its snapshot and without the frame, which is much larger: for events that wait in a queue."""
        return replace(self, frame=None, jpeg=self.snapshot)

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON types, without the frame."""
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
    """A name with only the characters allowed in topics, file names and identifiers: letters, digits, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:60] or "unnamed"
