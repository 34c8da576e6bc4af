"""Selection: find the noise level, block and component with the most informative features. One module per strategy.

    selection = select_tap("shipped", Path("camvid"), Request(strategy="hfr", images=64))

`hfr` is A-SelecT's label-free score (arXiv 2603.25758); `STRATEGIES` lists the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_edge.selection.choice import Settings
    from aselect_edge.selection.hfr import Measure, high_frequency_ratio
    from aselect_edge.selection.run import Request, select_tap
    from aselect_edge.selection.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Measure", "Request", "Settings", "high_frequency_ratio", "select_tap"]

_HOMES = {
    "STRATEGIES": "strategies",
    "Measure": "hfr",
    "Request": "run",
    "Settings": "choice",
    "high_frequency_ratio": "hfr",
    "select_tap": "run",
}

__getattr__ = attributes(__name__, _HOMES)
