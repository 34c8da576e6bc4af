"""`aselect-select` for several processes: `torchrun --nproc-per-node N -m aselect_edge.select BACKBONE …`."""

from __future__ import annotations

from aselect_edge.cli import select

if __name__ == "__main__":
    select()
