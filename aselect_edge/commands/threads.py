"""How many CPU threads a command computes with."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from aselect_runtime.commands.options import unset_at
from aselect_runtime.processor import compute_threads, physical_cores

log = logging.getLogger(__name__)

Threads = Annotated[
    int | None,
    typer.Option(
        min=0,
        callback=unset_at(0),
        help="CPU threads; OMP_NUM_THREADS or one per physical core if left out.",
    ),
]
BUSY = 0.75
"""Share of the cores that other programs keep busy from which fewer threads are advised."""


def use_threads(threads: int | None) -> None:
    """Let torch, ONNX Runtime and OpenVINO compute with so many threads, also in processes that this one starts.

    Where none are asked for, warns if other programs need the cores.
    """
    import torch

    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    elif "OMP_NUM_THREADS" not in os.environ and (advice := busy(os.getloadavg()[0], physical_cores())):
        log.warning("%s", advice)
    torch.set_num_threads(compute_threads())


def busy(load: float, cores: int) -> str | None:
    """The advice where `load` programs want the cores already; threads that wait for one another are slow."""
    if load < BUSY * cores:
        return None
    fewer = max(1, int(cores - load))
    return f"this machine is busy (a load of {load:.1f} on {cores} cores); --threads {fewer} may be faster"
