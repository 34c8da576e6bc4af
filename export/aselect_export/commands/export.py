"""aselect-export: parse, one call, print."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from aselect_runtime.commands.entry import entry
from aselect_runtime.options import choice, parse_size
from aselect_runtime.records import Task

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult

_Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def _export(
    task: Annotated[str | None, typer.Option(help="seg or cls; alone, it takes the bundle that ships.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp16",
    model: Annotated[Path | None, typer.Option(help="A bundle that aselect-train wrote.")] = None,
    imgsz: Annotated[str | None, typer.Option(metavar="HxW", help="Input size; the bundle's own if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Frames per inference.")] = 1,
    no_ladder: Annotated[bool, typer.Option("--no-ladder", help="Write no fallback graphs (mixed, fp32).")] = False,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="If fp16 misses its gate, take the mixed FP16/FP32 graph instead.")
    ] = False,
    engine: Annotated[str, typer.Option(help="auto, tensorrt, rtx or none.")] = "auto",
    target: Annotated[str, typer.Option(metavar="SM[,SM]", help="Build ahead of time, for example sm86,sm89.")] = "",
    data: Annotated[
        Path | None,
        typer.Option(help="Images or a video to verify and calibrate on; a split root with labels also gates int8."),
    ] = None,
    calib_images: Annotated[int, typer.Option(help="int8: frames of --data to calibrate on.")] = 128,
    calib: Annotated[str, typer.Option(help="int8: minmax, percentile, entropy or mse.")] = "mse",
    max_drop: Annotated[
        float | None,
        typer.Option(help="int8: allowed drop of mIoU or top-1 (0.003), or of agreement where no labels are (0.01)."),
    ] = None,
    rest: Annotated[
        str | None, typer.Option(help="int8: fp16 (GPU) or fp32 (CPU) for what is not INT8; by what is built.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; <task>-<precision> if left out.")] = None,
    layout: Annotated[
        str, typer.Option("--format", help="folder, or for many machines triton or deepstream.")
    ] = "folder",
    as_json: _Json = False,
    verbose: _Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Export a bundle to verified ONNX graphs and, where possible, TensorRT engines.

    A graph that misses its gate is not written; if it is the asked one, nothing is, and the exit code is 3.
    """
    from rich.console import Console

    from aselect_calibration.settings import Int8Settings
    from aselect_export.exporting import EngineChoice, check_precision, export, open_bundle
    from aselect_export.fleet import Format, deliver
    from aselect_runtime.progress import terminal_progress

    asked = check_precision(precision)
    choice(engine, get_args(EngineChoice), "--engine")
    choice(layout, get_args(Format), "--format")
    settings = Int8Settings(calib_images, calib, max_drop, rest)  # type: ignore[arg-type]
    if task is not None:
        choice(task, get_args(Task), "--task")
    bundle = open_bundle(task, model)  # type: ignore[arg-type]
    console = Console(stderr=True)
    with terminal_progress() as progress:
        make = partial(
            export,
            bundle,
            asked,
            imgsz=parse_size(imgsz) if imgsz else None,
            batch=batch,
            ladder=not no_ladder,
            allow_mixed=allow_mixed,
            targets=tuple(part.strip() for part in target.split(",") if part.strip()),
            engine=engine,  # type: ignore[arg-type]
            data=data,
            int8=settings,
            progress=progress,
        )
        result = deliver(layout, make, out or Path(f"{bundle.record.task}-{precision}"))  # type: ignore[arg-type]
    if result.rung == "mixed":
        console.print("warning: fp16 missed its gate, so model.onnx is the mixed graph", style="bold yellow")
    if as_json:
        print(export_json(result))
    else:
        _print_export(result, _NEXT[layout])


_NEXT = {
    "folder": "aselect-run {} synthetic://street --output demo.mp4",
    "triton": "tritonserver --model-repository {}",
    "deepstream": "nvinfer config-file-path={}/config_infer.txt",
}
"""What to do with each --format."""

export = entry(_export)


def export_json(result: ExportResult) -> str:
    """The result as one JSON object on one line."""
    return json.dumps(
        {
            "folder": str(result.folder),
            "rung": result.rung,
            "manifest": result.manifest.model_dump(mode="json", by_alias=True),
            "report": result.report.model_dump(mode="json", by_alias=True),
        }
    )


def _print_export(result: ExportResult, following: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    gate = Table("graph", "held against", "frames", "same class", "max error", "gate")
    for parity in result.report.parity:
        passed = "passed" if parity.passed else "failed"
        row = (parity.graph, parity.reference, str(parity.frames), f"{parity.agreement:.3%}")
        gate.add_row(*row, f"{parity.max_error:.1e}", passed)
    console.print(gate)
    for name, size in result.report.size.items():
        console.print(f"{size / 1e6:10.2f} MB  {name}", markup=False)
    for name, taken in result.report.latency.items():
        console.print(f"{taken:10.2f} ms  {name.removesuffix(' [ms]')}", markup=False)
    for note in result.report.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"wrote {result.folder}; next: {following.format(result.folder)}",
        markup=False,
        soft_wrap=True,
    )
