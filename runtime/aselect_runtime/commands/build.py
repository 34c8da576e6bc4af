"""aselect-build: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Targets, Verbose, read
from aselect_runtime.options import parse_list
from aselect_runtime.progress import terminal_progress


def _build(
    *,
    folder: Annotated[Path, typer.Argument(help="Export folder.")],
    target: Targets = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="MiB of GPU memory that the builder may use.")] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option("--optimization-level", min=0, max=5, help="0 builds fastest, 5 builds the fastest engine."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - for `entry`
) -> None:
    """Build TensorRT engines for an export folder: for this machine's GPU, or ahead of time for other ones.

    An engine for this machine's GPU is compared with ONNX Runtime before it replaces an older one; if it fails this
    parity check, the folder's next graph is built (mixed, fp32), and if none passes the exit code is 3. Ctrl-C keeps
    the engines of the targets that are finished, and leaves nothing else.
    """
    from aselect_runtime.engines import BuildOptions, add_engines

    targets = read(target, "--target", parse_list) or ()
    with terminal_progress() as progress:
        engines = add_engines(folder, targets, BuildOptions(workspace, optimization_level), progress)
    if as_json:
        print(json.dumps({"engines": [engine.model_dump() for engine in engines]}))
        return
    for engine in engines:
        verified = "not verified: it needs a GPU" if engine.agreement is None else f"{engine.agreement:.3%} same class"
        print(
            f"{folder / engine.file}  {(folder / engine.file).stat().st_size / 1e6:.1f} MB  {engine.model}, {verified}"
        )


build = entry(_build, examples=["aselect-build EXPORTED", "aselect-build EXPORTED --target sm86,sm89"])
