"""aselect-export: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_calibration.settings import Rest
from aselect_calibration.thresholds import Method
from aselect_export.choices import EngineChoice, Format
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Targets, Verbose, read
from aselect_runtime.options import parse_list, parse_size
from aselect_runtime.records import Precision, Task, Weights

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult


def _export(
    task: Annotated[Task | None, typer.Option(help="Without --model, exports the included bundle.")] = None,
    precision: Annotated[Precision, typer.Option()] = "fp16",
    weights: Annotated[
        Weights | None, typer.Option(help="Store the weights of linear layers in 4 bits, with fp16 or fp32.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A bundle that aselect-train wrote.")] = None,
    imgsz: Annotated[str | None, typer.Option(metavar="HxW", help="Input size; the bundle's own if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Frames per inference.")] = 1,
    no_ladder: Annotated[bool, typer.Option("--no-ladder", help="Write no fallback graphs (mixed, fp32).")] = False,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="If fp16 fails its check, use the mixed FP16/FP32 graph.")
    ] = False,
    engine: Annotated[EngineChoice, typer.Option(help="TensorRT variant for the engines.")] = "auto",
    target: Targets = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images or a video to verify and calibrate on; with labels they also check the accuracy."),
    ] = None,
    calib_images: Annotated[int, typer.Option(help="int8, fp8: frames of --data to calibrate on.")] = 128,
    calib: Annotated[
        Method | None, typer.Option(help="How ranges are found; mse for int8 and minmax for fp8 if left out.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Allowed drop of mIoU or top-1 (0.003), or without labels of agreement (0.01)."),
    ] = None,
    rest: Annotated[
        Rest | None,
        typer.Option(help="int8: precision of the other layers, fp16 (GPU) or fp32 (CPU); chosen if left out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; <task>-<precision> if left out.")] = None,
    layout: Annotated[
        Format, typer.Option("--format", help="An export folder, or the format of that server.")
    ] = "folder",
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Export a bundle to verified ONNX graphs and, where possible, TensorRT engines.

    A graph that fails its check is not written; if it is the requested one, nothing is written and the exit code is 3.
    """
    size = read(imgsz, "--imgsz", parse_size)
    targets = read(target, "--target", parse_list) or ()

    from rich.console import Console

    from aselect_export.api import export
    from aselect_runtime.progress import terminal_progress

    console = Console(stderr=True)
    with terminal_progress() as progress:
        result = export(
            task,
            precision,
            weights=weights,
            model=model,
            imgsz=size,
            batch=batch,
            ladder=not no_ladder,
            allow_mixed=allow_mixed,
            engine=engine,
            target=targets,
            data=data,
            calib_images=calib_images,
            calib=calib,
            max_drop=max_drop,
            rest=rest,
            out=out,
            format=layout,
            progress=progress,
        )
    if result.rung == "mixed":
        console.print("warning: fp16 failed its parity check, so model.onnx is the mixed graph", style="bold yellow")
    if as_json:
        print(export_json(result))
    else:
        _print_export(result, _NEXT[layout])


_NEXT = {
    "folder": "aselect-run {} synthetic://street --output demo.mp4",
    "triton": "tritonserver --model-repository {}",
    "deepstream": "nvinfer config-file-path={}/config_infer.txt",
}
"""The next command after each --format."""

export = entry(
    _export,
    groups={
        "INT8, FP8 and INT4 weights": ["weights", "calib_images", "calib", "max_drop", "rest"],
        "Engines and fallbacks": ["engine", "target", "no_ladder", "allow_mixed", "layout"],
    },
    examples=[
        "aselect-export --task seg --precision fp16",
        "aselect-export --task seg --precision int8 --model BUNDLE --data DATA --out EXPORTED",
    ],
)


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
    gate = Table("graph", "compared with", "frames", "same class", "max error", "gate")
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
