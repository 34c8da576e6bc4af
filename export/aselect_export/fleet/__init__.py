"""Export folders for machines that run many models: NVIDIA Triton and DeepStream.

write_triton(Path("seg-fp16"), Path("repository"))
write_deepstream(Path("seg-fp16"), Path("nvinfer"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aselect_export.choices import Format
from aselect_export.engine_plan import NO_GPU
from aselect_export.fleet import deepstream, triton
from aselect_export.fleet.deepstream import write_deepstream
from aselect_export.fleet.triton import write_triton
from aselect_runtime.errors import InputError
from aselect_runtime.output_folder import check_replaceable, working_folder
from aselect_runtime.records import Precision

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult

__all__ = ["Format", "check_format", "deliver", "write_deepstream", "write_triton"]


def check_format(layout: Format, precision: Precision) -> None:
    """Raise InputError for a precision that a server's format does not have."""
    # nvinfer has no mode for FP8, and Triton loads graphs with ONNX Runtime's fusions, which fail on FP8.
    if layout != "folder" and precision == "fp8":
        raise InputError(
            f"got the precision fp8 with the format {layout}, expected fp32, fp16 or int8 with it; change one of them",
            parameter=("precision", "format"),
        )


def deliver(layout: Format, make: Callable[[Path], ExportResult], out: Path) -> ExportResult:
    """Export into `out` in the given format; for a fleet, through a temporary export folder.

    Raises what `make` raises, InputError (the graph cannot be used there), GateError (its answers differ there) and
    WriteError.
    """
    if layout == "folder":
        return make(out)
    write, kind = {"triton": (write_triton, triton.KIND), "deepstream": (write_deepstream, deepstream.KIND)}[layout]
    check_replaceable(out, kind)  # before minutes of work
    with working_folder(out) as scratch:
        result = make(scratch / "export")
        notes = write(result.folder, out)
    # Advice and sizes of the temporary folder are not those of what is written.
    notes = (*(note for note in result.report.notes if note != NO_GPU), *notes)
    size = {name: value for name, value in result.report.size.items() if name.endswith("_bytes")}
    size |= {str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    report = result.report.model_copy(update={"notes": notes, "size": size})
    return replace(result, folder=out, report=report)
