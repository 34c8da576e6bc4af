"""State of a run: a snapshot that every result carries, with the board's temperatures and power mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

SourceState = Literal["connecting", "live", "lost", "ended"]
SinkState = Literal["working", "stalled", "failed"]


@dataclass(frozen=True)
class SourceHealth:
    """One input since the start of the run."""

    name: str
    """Printable, without credentials."""
    state: SourceState = "connecting"
    frames: int = 0
    """Frames with a result."""
    dropped: int = 0
    """Frames that were replaced by a newer one before inference."""
    reconnects: int = 0
    """How often frames arrived again after the connection was lost."""
    fault: str = ""
    """Why the last connection was lost, or a video ended with an error."""
    repeated: int = 0
    """Frames that got an earlier frame's result without inference, because nothing moved."""
    skipped: int = 0
    """Images that do not decode."""


@dataclass(frozen=True)
class SinkHealth:
    """One output since the start of the run."""

    name: str
    """Printable, without credentials."""
    state: SinkState = "working"
    written: int = 0
    dropped: int = 0
    """Results that were discarded because the sink was too slow, or that came after it failed."""
    waiting: int = 0
    """Results in its queue now."""
    fault: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Health:
    """State of a run at one moment; immutable, and at most one second old when it is attached to a result."""

    frames: int = 0
    """Frames with a result."""
    seconds: float = 0.0
    """Since the start of the run."""
    fps: float = 0.0
    """Results per second since the previous snapshot."""
    sources: tuple[SourceHealth, ...] = ()
    sinks: tuple[SinkHealth, ...] = ()
    stalled: tuple[str, ...] = ()
    """Stages that are stuck in one operation: `infer`, `capture rtsp://***@host/`, `output video.mp4`."""
    temperatures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Degrees Celsius by thermal zone; empty if the board reports none."""
    power_mode: str | None = None
    """Power mode of a Jetson, for example `MAXN_SUPER`."""

    @property
    def dropped(self) -> int:
        """Frames of all sources that were replaced by newer ones before inference."""
        return sum(source.dropped for source in self.sources)

    @property
    def repeated(self) -> int:
        """Frames of all sources that got an earlier frame's result, because nothing moved."""
        return sum(source.repeated for source in self.sources)

    @property
    def reconnects(self) -> int:
        """Number of reconnects of all sources."""
        return sum(source.reconnects for source in self.sources)
