"""aselect-run: parse, one call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, OnDevice
from aselect_runtime.commands.records import option_names
from aselect_runtime.commands.signals import leave_on_signals, stop_on_signals
from aselect_runtime.commands.variables import filled_in
from aselect_runtime.errors import IncompleteError, InputError
from aselect_runtime.options import Decode, refuse_unused
from aselect_runtime.progress import terminal_progress
from aselect_runtime.redaction import redact

if TYPE_CHECKING:
    from aselect_runtime.drawing import Look
    from aselect_runtime.pipeline.timing import RunSummary
    from aselect_runtime.sinks.event_recording import EventRecording

Model = Annotated[Path, typer.Argument(help="Export folder, or a .onnx file of aselect-export.")]
Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Video, image, folder of images, /dev/videoN, csi://N, rtsp://…, http(s)://…, a GStreamer string or "
        "synthetic://street; cameras run in parallel, files in turn.",
        metavar="INPUT...",
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="URI",
        help=".mp4/.mkv overlay, .jsonl results (- for stdout), .png last frame, folder/ masks, display://, "
        "http://host:port live page, mqtt://host/topic, metrics://host:port; repeatable. In file names "
        "{source} and {time} are replaced.",
    ),
]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", min=1, help="Stop after this many frames.")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", min=0.001, help="Stop after this time.")]
Smooth = Annotated[
    float | None,
    typer.Option(
        "--smooth",
        min=0.01,
        max=1.0,
        help="Average over time: the weight of a new frame, for example 0.4. Default: off.",
    ),
]
SkipStill = Annotated[
    float | None,
    typer.Option(
        "--skip-still",
        min=0.001,
        max=0.5,
        help="Repeat the last result while less than this share changes, e.g. 0.01.",
    ),
]
Record = Annotated[
    Path | None,
    typer.Option("--record-calibration", help="Folder for model inputs from all of the run, to calibrate INT8 with."),
]
DecodeWith = Annotated[
    Decode,
    typer.Option(
        "--decode",
        metavar="NAME",
        help="Decode by auto (hardware if it works), software, hardware.",
    ),
]
RuleFile = Annotated[Path | None, typer.Option("--rules", help="TOML file of zones and rules that define events.")]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--events",
        metavar="URI",
        help="events.jsonl, mqtt://host/topic (Home Assistant) or https://host (webhook); repeatable.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EventVideoOptions:
    """Videos of events."""

    record_events: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a video of each event, of network cameras and files."),
    ] = None
    pre: Annotated[
        float | None, typer.Option(min=0, max=300, help="Seconds of video before the start of an event; 5 if left out.")
    ] = None
    post: Annotated[
        float | None, typer.Option(min=0, max=300, help="Seconds of video after its end; 10 if left out.")
    ] = None
    keep_gb: Annotated[
        float | None,
        typer.Option(min=0.001, help="Maximum size of all event videos, then the oldest are removed; 10 if left out."),
    ] = None
    keep_days: Annotated[
        float | None, typer.Option(min=0.001, help="Age in days at which videos are removed; 30 if left out.")
    ] = None

    def recording(self, moment: str) -> EventRecording | None:
        """The settings for a run that starts at `moment`; None without a folder.

        Raises InputError for settings of no folder.
        """
        from aselect_runtime.pipeline.placeholders import dated
        from aselect_runtime.sinks.event_recording import EventRecording

        if self.record_events is None:
            needed = "a folder for videos of events"
            refuse_unused(vars(self), f"no {needed[2:]}", needed, ("record_events",))
            return None
        most = None if self.keep_gb is None else self.keep_gb * 1e9
        given = {"pre": self.pre, "post": self.post, "most_bytes": most, "most_days": self.keep_days}
        folder = Path(dated(filled_in(str(self.record_events)), moment))
        return EventRecording(folder, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How results are drawn over images."""

    opacity: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Opacity of the class colours over the image; 0.5 if left out."),
    ] = None
    clear: Annotated[list[str] | None, typer.Option(metavar="CLASS", help="A class that is not drawn; repeatable.")] = (
        None
    )

    def look(self, outputs: Sequence[str]) -> Look:
        """The settings; raises InputError for settings without an overlay."""
        from aselect_runtime.drawing import OPACITY, Look
        from aselect_runtime.sinks.sink import draws

        if not any(map(draws, outputs)):
            needed = "an overlay (.mp4, .mkv, .png, .jpg or display://)"
            refuse_unused(vars(self), "no overlay among the outputs", needed, ("output",))
        return Look(OPACITY if self.opacity is None else self.opacity, frozenset(self.clear or ()))


Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks and the messages of FFmpeg.")]


def _run(
    *,
    model: Model,
    inputs: Inputs,
    output: Outputs = None,
    max_frames: MaxFrames = None,
    max_seconds: MaxSeconds = None,
    device: OnDevice = "auto",
    smooth: Smooth = None,
    skip_still: SkipStill = None,
    drawing: DrawingOptions,
    record_calibration: Record = None,
    decode: DecodeWith = "auto",
    rules: RuleFile = None,
    events: Events = None,
    videos: EventVideoOptions,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run an exported model on videos, images, cameras and streams.

    Ctrl-C completes the outputs and ends with exit code 0. A camera whose connection is lost is reconnected until the
    run ends. If an input or output fails, the run continues without it, and the exit code at the end is 1.
    """

    inputs, outputs, places = ([filled_in(uri) for uri in uris or ()] for uris in (inputs, output, events))
    if as_json and "-" in outputs:
        raise InputError(
            "got the output - with the summary as JSON, expected one of them on stdout; write results to a .jsonl file"
        )
    # FFmpeg's messages contain addresses as given: if one has a password, they are hidden even with --verbose.
    quiet_libraries(verbose and all(redact(uri) == uri for uri in inputs))
    with leave_on_signals():
        # Imported here so that --help and usage errors do not wait for OpenCV.
        from aselect_runtime.backends import open_model
        from aselect_runtime.commands.live import print_summary, progress
        from aselect_runtime.pipeline.events import plan_events
        from aselect_runtime.pipeline.placeholders import dated, now
        from aselect_runtime.pipeline.run import run_pipeline

        moment = now()  # one for all names of the run
        outputs, places = ([dated(uri, moment) for uri in uris] for uris in (outputs, places))
        record = None if record_calibration is None else Path(dated(filled_in(str(record_calibration)), moment))
        plan = plan_events(rules, places, outputs, inputs, videos.recording(moment))
        look = drawing.look(outputs)
        with terminal_progress() as following:
            manifest, session = open_model(model, device, following)

    def show(summary: RunSummary) -> None:
        if as_json:
            print(json.dumps(summary.to_dict()))
        else:
            print_summary(summary, sys.stderr)

    try:
        with stop_on_signals() as stop, progress(max_frames) as on_frame:
            summary = run_pipeline(
                manifest,
                session,
                inputs,
                outputs,
                max_frames=max_frames,
                max_seconds=max_seconds,
                stop=stop,
                on_frame=on_frame,
                smooth=smooth,
                skip_still=skip_still,
                record=record,
                decode=decode,
                events=plan,
                look=look,
            )
    except IncompleteError as error:
        show(cast("RunSummary", error.summary))
        raise
    finally:
        session.close()
    show(summary)


def quiet_libraries(verbose: bool) -> None:
    """Keep FFmpeg and OpenCV from writing to stderr: relevant problems are reported as errors of this project."""
    if not verbose:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


run = entry(
    _run,
    groups={
        "Results": ["smooth", "skip_still", *option_names(DrawingOptions), "decode", "record_calibration"],
        "Events": ["rules", "events", *option_names(EventVideoOptions)],
    },
    examples=[
        "aselect-run EXPORTED video.mp4 --output overlay.mp4 --output results.jsonl",
        "aselect-run EXPORTED /dev/video0 --output http://127.0.0.1:8080",
    ],
)
