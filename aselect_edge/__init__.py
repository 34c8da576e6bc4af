"""aselect-edge, floor 1: records and errors, backbones, the fold, selection, heads and training.

Importing this package loads nothing heavy; each verb imports what it needs when it is called.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
