"""How events are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EventRecording:
    """Where videos of events go, and how much of them."""

    folder: Path
    pre: float = 5.0
    """Seconds before the start; a video begins with the keyframe before that."""
    post: float = 10.0
    """Seconds after the end."""
    most_bytes: float = 10e9
    """Of all videos in the folder; then the oldest give way."""
    most_days: float = 30.0
    """Older videos are removed."""
