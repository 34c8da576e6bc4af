"""aselect-export: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_calibration.settings import Rest
from aselect_calibration.thresholds import Method
from aselect_edge.commands.threads import Threads, use_threads
from aselect_export.card import CARD
from aselect_export.choices import MOST_FRAMES, EngineChoice, Format
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Targets, Verbose, read
from aselect_runtime.commands.records import option_names
from aselect_runtime.files import shell_word
from aselect_runtime.options import parse_list, parse_size
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import EncoderKind, Precision, Task, Weights

if TYPE_CHECKING:
    from aselect_export.exporting import ExportResult


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How INT8, FP8 and INT4 weights are made."""

    weights: Annotated[
        Weights | None, typer.Option(help="Store the weights of linear layers in 4 bits, with fp16 or fp32.")
    ] = None
    calib_images: Annotated[
        int | None, typer.Option(help="Frames of --data to calibrate on, 128 or all if there are fewer.")
    ] = None
    calib: Annotated[
        Method | None,
        typer.Option(metavar="METHOD", help="minmax (fp8's default), percentile, entropy or mse (int8's)."),
    ] = None
    rest: Annotated[
        Rest | None,
        typer.Option(help="Precision of the other layers, fp16 (GPU) or fp32 (CPU); chosen if left out."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """The autoencoder's encoder in the graph."""

    encoder: Annotated[
        EncoderKind, typer.Option(help="The encoder that the model was trained with, or what replaces it.")
    ] = "full"
    vae: Annotated[
        str | None, typer.Option(help="--encoder tiny: folder or hub id of the AutoencoderTiny.", metavar="SOURCE")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Engines, fallback graphs and the form of the folder."""

    engine: Annotated[
        EngineChoice, typer.Option(metavar="NAME", help="TensorRT for the engines: auto, tensorrt, rtx or none.")
    ] = "auto"
    target: Targets = None
    no_ladder: Annotated[bool, typer.Option("--no-ladder", help="Write no fallback graphs (mixed, fp32).")] = False
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="If fp16 fails its check, use the mixed FP16/FP32 graph.")
    ] = False
    format: Annotated[
        Format, typer.Option(metavar="NAME", help="folder (an export), or that of a server: triton, deepstream.")
    ] = "folder"


def _export(
    *,
    task: Annotated[Task | None, typer.Option(help="Without --model, exports the included bundle.")] = None,
    precision: Annotated[Precision, typer.Option()] = "fp16",
    model: Annotated[Path | None, typer.Option(help="A bundle that aselect-train wrote.")] = None,
    imgsz: Annotated[str | None, typer.Option(metavar="HxW", help="Input size; the bundle's own if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=MOST_FRAMES, help="Frames per inference.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(help="Images or a video to verify and calibrate on; with labels they also check the accuracy."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Allowed drop of mIoU or top-1 (0.003, another encoder 0.01), or of agreement without labels (0.01)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; <task>-<precision> if left out.")] = None,
    threads: Threads = None,
    int8: Int8,
    encoder: EncoderOptions,
    delivery: Delivery,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Export a bundle to verified ONNX graphs and, where possible, TensorRT engines.

    A graph that fails its check is not written; if it is the requested one, nothing is written and the exit code is 3.
    """
    size = read(imgsz, "--imgsz", parse_size)

    from rich.console import Console

    from aselect_export.api import export

    use_threads(threads)
    console = Console(stderr=True)
    with terminal_progress() as progress:
        result = export(
            task,
            precision,
            model=model,
            imgsz=size,
            batch=batch,
            data=data,
            max_drop=max_drop,
            out=out,
            ladder=not delivery.no_ladder,
            allow_mixed=delivery.allow_mixed,
            engine=delivery.engine,
            target=read(delivery.target, "--target", parse_list) or (),
            format=delivery.format,
            progress=progress,
            **(vars(int8) | vars(encoder)),
        )
    if result.rung == "mixed":
        console.print("warning: fp16 failed its parity check, so model.onnx is the mixed graph", style="bold yellow")
    if as_json:
        print(export_json(result))
    else:
        _print_export(result, _NEXT[delivery.format].format(shell_word(result.folder), *_input(result, data)))


_NEXT = {
    "folder": "aselect-run {0} {1} --output {2}",
    "triton": "tritonserver --model-repository {0}",
    "deepstream": "nvinfer config-file-path={0}/config_infer.txt",
}
"""The next command after each --format."""


def _input(result: ExportResult, data: Path | None) -> tuple[str, str]:
    """An input that the model can be tried on, of the user's own if there is one, and an output for it."""
    from aselect_edge.data import images_of
    from aselect_runtime.scenes import CLASSES

    if data is not None and data.is_file():
        return shell_word(data), "overlay.mp4"
    if data is not None:
        return shell_word(images_of(data, ("test", "val", "train"), result.manifest.task)[0]), "overlay.png"
    streets = [info.name for info in result.manifest.classes] == list(CLASSES)
    return ("synthetic://street", "demo.mp4") if streets else ("VIDEO", "overlay.mp4")


export = entry(
    _export,
    groups={
        "INT8, FP8 and INT4 weights": option_names(Int8),
        "Encoder": option_names(EncoderOptions),
        "Engines and fallbacks": option_names(Delivery),
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


_WEIGHTS = {
    "backbone_float32_bytes": "weights of the whole backbone, in float32",
    "deployed_float32_bytes": "weights of the exported part and the head, in float32",
}
"""What `Report.size` has beside files."""


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
        console.print(f"{size / 1e6:10.2f} MB  {_WEIGHTS.get(name, name)}", markup=False)
    for name, taken in result.report.latency.items():
        console.print(f"{taken:10.2f} ms  {name.removesuffix(' [ms]')}", markup=False)
    for note in result.report.notes:
        console.print(f"note: {note}", markup=False)
    if (card := result.folder / CARD).is_file():
        console.print(f"model card: {card}", markup=False, soft_wrap=True)
    console.print(
        f"wrote {result.folder}; next: {following}",
        markup=False,
        soft_wrap=True,
    )
