"""`export` as a function: the options of aselect-export, by the same names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from aselect_calibration.settings import IMAGES, Int8Settings, Rest
from aselect_calibration.thresholds import Method
from aselect_export.choices import MOST_FRAMES, EngineChoice
from aselect_export.exporting import ExportResult, open_bundle
from aselect_export.exporting import export as export_bundle
from aselect_export.fleet import Format, check_format, deliver
from aselect_export.requests import Given, check_precision
from aselect_runtime.options import choice, parse_list, parse_size, within
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import EncoderKind, Precision, Task, Weights


def export(
    task: Task | None = None,
    precision: Precision = "fp16",
    *,
    weights: Weights | None = None,
    model: str | Path | None = None,
    imgsz: str | tuple[int, int] | None = None,
    batch: int = 1,
    ladder: bool = True,
    allow_mixed: bool = False,
    engine: EngineChoice = "auto",
    target: str | Sequence[str] = (),
    data: str | Path | None = None,
    calib_images: int | None = None,
    calib: Method | None = None,
    max_drop: float | None = None,
    rest: Rest | None = None,
    encoder: EncoderKind = "full",
    vae: str | None = None,
    out: str | Path | None = None,
    format: Format = "folder",
    progress: Progress = silent,
) -> ExportResult:
    """Export a bundle to verified ONNX graphs and, where possible, TensorRT engines.

    `weights` "int4" stores those of the linear layers in 4 bits.
    `model` is a bundle folder; without it, the one included for `task`. `imgsz` is "HxW" or (height, width) in
    pixels, the bundle's own if None; `target` is "sm86,sm89" or a list of such names. `ladder` writes the fallback
    graphs. `data` is used to verify and calibrate; `calib_images` to `rest` are for int8, fp8 and int4, see
    `Int8Settings`. `encoder` turns frames into tokens: the full one, AutoencoderTiny ("tiny", at `vae`) or the bundle's
    stem ("distilled"); the last two are compared with the full one on `data`, within `max_drop`. An option that would
    have no effect is refused. The folder is `out`, or <task>-<precision> in the working directory
    (<task>-<precision>-int4 with these weights), which a later export replaces.

    A graph that fails its parity check is not written; if it is the requested one, nothing is written and GateError is
    raised. Also raises InputError, WriteError or EngineError.
    """
    asked = check_precision(precision)
    choice(engine, get_args(EngineChoice), "engine")
    choice(format, get_args(Format), "format")
    check_format(format, asked)
    choice(encoder, get_args(EncoderKind), "encoder")
    if task is not None:
        choice(task, get_args(Task), "task")
    within(batch, 1, MOST_FRAMES, "batch")
    settings = Int8Settings(IMAGES if calib_images is None else calib_images, calib, max_drop, rest)
    targets = parse_list(target if isinstance(target, str) else ",".join(target))
    given = Given(calib_images=calib_images, calib=calib, max_drop=max_drop, rest=rest, targets=targets)
    given.check(asked, weights, encoder, engine, format, data=data is not None)
    bundle = open_bundle(task, None if model is None else Path(model))
    make = partial(
        export_bundle,
        bundle,
        asked,
        weights=weights,
        imgsz=None if imgsz is None else parse_size(imgsz),
        batch=batch,
        ladder=ladder,
        allow_mixed=allow_mixed,
        targets=targets,
        engine=engine,
        data=None if data is None else Path(data),
        int8=settings,
        encoder=encoder,
        vae=vae,
        progress=progress,
    )
    name = f"{bundle.record.task}-{asked}{f'-{weights}' if weights else ''}"
    return deliver(format, make, Path(name if out is None else out))
