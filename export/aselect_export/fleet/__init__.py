"""Export folders for machines that run many models: NVIDIA Triton and DeepStream.

write_triton(Path("seg-fp16"), Path("repository"))
write_deepstream(Path("seg-fp16"), Path("nvinfer"))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aselect_export.choices import Format
from aselect_export.fleet import deepstream, triton
from aselect_export.fleet.deepstream import write_deepstream
from aselect_export.fleet.triton import write_triton
from aselect_runtime.files import check_replaceable

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult

__all__ = ["Format", "deliver", "write_deepstream", "write_triton"]


def deliver(layout: Format, make: Callable[[Path], ExportResult], out: Path) -> ExportResult:
    """Export into `out` as the layout says; for a fleet, by way of an export folder that does not stay.

    Raises what `make` raises, InputError (the graph cannot serve there) and GateError (there it answers otherwise).
    """
    if layout == "folder":
        return make(out)
    write, marker = {"triton": (write_triton, triton.MARKER), "deepstream": (write_deepstream, deepstream.CONFIG)}[
        layout
    ]
    check_replaceable(out, marker)  # before minutes of work
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        result = make(Path(scratch) / "export")
        notes = write(result.folder, out)
    report = result.report.model_copy(update={"notes": (*result.report.notes, *notes)})
    return replace(result, folder=out, report=report)
