"""The weights that ship with aselect-edge: a small DiT (`backbone`) and two bundles trained from it (`seg`, `cls`).

Paths of folders, and nothing else. For research and demonstration, non-commercial: see NOTICE and the model card.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "backbone", "cls", "seg"]

backbone: Path = Path(__file__).parent / "backbone"
seg: Path = Path(__file__).parent / "seg"
cls: Path = Path(__file__).parent / "cls"
