"""Selection: at which noise level, block and component does a frozen DiT know most? One file per strategy.

`hfr` is A-SelecT's label-free score (arXiv 2603.25758); `probe` asks labelled images directly.
"""

from __future__ import annotations

from aselect_edge.select.by_hfr import select_by_hfr
from aselect_edge.select.by_probe import select_by_probe
from aselect_edge.select.hfr import high_frequency_ratio
from aselect_edge.select.scan import Scan

__all__ = ["Scan", "high_frequency_ratio", "select_by_hfr", "select_by_probe"]
