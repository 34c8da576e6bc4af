"""Settings of event recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EventRecording:
    """The folder for videos of events, their length, and the limits of the folder."""

    folder: Path
    pre: float = 5.0
    """Seconds before the start; a video begins with the keyframe before that."""
    post: float = 10.0
    """Seconds after the end."""
    most_bytes: float = 10e9
    """Maximum bytes of all videos in the folder; then the oldest are removed."""
    most_days: float = 30.0
    """Age in days at which videos are removed."""
