"""What an export can be asked for; apart, so that a command that lists it loads nothing heavy."""

from __future__ import annotations

from typing import Literal

EngineChoice = Literal["auto", "tensorrt", "rtx", "none"]
Format = Literal["folder", "triton", "deepstream"]
"""One machine's export folder, or what a server for many reads."""
