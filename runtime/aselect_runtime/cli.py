"""aselect-run: parse, one call, print."""

from __future__ import annotations

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from aselect_edge.command import entry


class DeviceName(str, Enum):
    """What can be asked for with --device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    openvino = "openvino"


Model = Annotated[Path, typer.Argument(help="export folder, or a .onnx file of aselect-export")]
Inputs = Annotated[
    list[str],
    typer.Argument(help="video file, image, folder of images, /dev/videoN or synthetic://street", metavar="INPUT..."),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output", "-o", help=".mp4/.mkv overlay, .jsonl results, .png last frame, folder/ masks; repeatable"
    ),
]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", min=1, help="stop after this many frames")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", min=0.001, help="stop after this time")]
DeviceOption = Annotated[
    DeviceName,
    typer.Option("--device", help="what to run on; tensorrt is refused: this version cannot run it"),
]
Json = Annotated[bool, typer.Option("--json", help="print the summary as one JSON object on stdout")]
Verbose = Annotated[bool, typer.Option("--verbose", help="show tracebacks and the messages of FFmpeg")]


def _run(
    model: Model,
    inputs: Inputs,
    output: Outputs = None,
    max_frames: MaxFrames = None,
    max_seconds: MaxSeconds = None,
    device: DeviceOption = DeviceName.auto,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run an exported model on videos, images or a camera.

    Ctrl-C or SIGTERM end the run in order: the outputs are completed and the exit code is 0. If a camera fails
    while it runs, the outputs up to then are completed and kept, and the exit code is 1. After any other error no
    output is left behind.
    """
    quiet_libraries(verbose)
    # Imported here so that --help and usage errors do not wait for OpenCV.
    from aselect_runtime.model import open_model
    from aselect_runtime.pipeline import run_pipeline
    from aselect_runtime.progress import print_summary, progress
    from aselect_runtime.signals import stop_on_signals
    from aselect_runtime.variables import filled_in

    manifest, session = open_model(model, device.value)
    try:
        with stop_on_signals() as stop, progress(max_frames) as on_frame:
            summary = run_pipeline(
                manifest,
                session,
                [filled_in(uri) for uri in inputs],
                [filled_in(uri) for uri in output or []],
                max_frames=max_frames,
                max_seconds=max_seconds,
                stop=stop,
                on_frame=on_frame,
            )
    finally:
        session.close()
    if as_json:
        print(json.dumps(summary.to_dict()))
    else:
        print_summary(summary, sys.stderr)


def quiet_libraries(verbose: bool) -> None:
    """Keep FFmpeg and OpenCV from writing to stderr by themselves: what matters comes as an error of ours."""
    if not verbose:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


run = entry(_run)
