"""aselect-bench: parse, one call, print."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json
from aselect_runtime.commands.run import Model, Verbose, quiet_libraries
from aselect_runtime.commands.variables import filled_in
from aselect_runtime.progress import terminal_progress
from aselect_runtime.redaction import redact


class DeviceName(str, Enum):
    """`Device` for an option that can be repeated: typer does not support a list of Literal."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    openvino = "openvino"
    openvino_bf16 = "openvino-bf16"


def _bench(
    *,
    model: Model,
    source: Annotated[str, typer.Option(help="What to measure on: any input of aselect-run.")] = "synthetic://street",
    device: Annotated[
        list[DeviceName] | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="auto, cpu, cuda, tensorrt, openvino or openvino-bf16; repeat to compare. Default: all that are "
            "available.",
        ),
    ] = None,
    warmup: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds of warm-up.")] = 200.0,
    iterations: Annotated[int, typer.Option(min=1, help="Minimum number of calls of the session.")] = 10,
    duration: Annotated[float, typer.Option(min=0.01, metavar="S", help="Minimum seconds of each measurement.")] = 3.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model on this machine: the session alone, then the whole pipeline over a source.

    The session is measured as trtexec does: a warm-up, then at least the given number of calls and seconds, on one
    batch in host memory. The pipeline is measured without outputs; if it is slower than the session, capture and resize
    are the cause, whose times are shown. Run nothing else on the machine during the measurement.
    """

    source = filled_in(source)
    # As in aselect-run: FFmpeg's messages contain addresses with their passwords.
    quiet_libraries(verbose and redact(source) == source)
    from aselect_runtime.bench import Effort, benchmark, benchmark_all, report

    effort = Effort(warmup, iterations, duration)
    with terminal_progress() as progress:
        if device:
            benchmarks = [benchmark(model, name.value, source, effort, progress) for name in device]
        else:
            benchmarks = benchmark_all(model, source, effort, progress)
    if as_json:
        print(json.dumps({"benchmarks": [item.to_dict() for item in benchmarks]}))
    else:
        print(report(benchmarks, effort))


bench = entry(
    _bench, examples=["aselect-bench EXPORTED", "aselect-bench EXPORTED --device cpu --source video.mp4 --json"]
)
