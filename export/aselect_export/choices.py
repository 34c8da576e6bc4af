"""The choices of an export's options; a separate module, so that a command can list them without importing torch."""

from __future__ import annotations

from typing import Literal

EngineChoice = Literal["auto", "tensorrt", "rtx", "none"]
Format = Literal["folder", "triton", "deepstream"]
"""An export folder for one machine, or the format of a server for many."""
MOST_FRAMES = 64
"""Of a batch."""
