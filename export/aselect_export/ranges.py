"""Store activation ranges in a bundle, so that `--precision int8` needs no data.

python -m aselect_export.ranges BUNDLE --data DIR
"""

from __future__ import annotations

import logging
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_calibration.settings import Int8Settings
from aselect_calibration.thresholds import Method
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Verbose
from aselect_runtime.files import sha256
from aselect_runtime.progress import Progress, silent, terminal_progress

if TYPE_CHECKING:
    from aselect_calibration.ranges import Ranges

log = logging.getLogger(__name__)


def _keep(
    model: Annotated[Path, typer.Argument(help="A bundle that aselect-train wrote.")],
    data: Annotated[Path, typer.Option(help="Images or a video from the camera.")],
    calib_images: Annotated[int, typer.Option(help="Number of calibration frames; fewer if there are fewer.")] = 128,
    calib: Annotated[Method, typer.Option(help="How ranges are found.")] = "mse",
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Measure the activation ranges of a bundle's deployed graph and store them in the bundle as ranges.json."""
    from rich.console import Console

    settings = Int8Settings(calib_images, calib)
    with terminal_progress() as progress:
        keep_ranges(model, data, settings, progress)
    Console(stderr=True).print(
        f"wrote {model / 'ranges.json'}; next: aselect-export --model {shlex.quote(str(model))} --precision int8",
        soft_wrap=True,
        markup=False,
    )


def keep_ranges(folder: Path, data: Path, settings: Int8Settings, progress: Progress = silent) -> Ranges:
    """Calibrate the bundle in `folder` on `data` at its own input size, and write `ranges.json` into it."""
    from aselect_calibration import calibrate, calibration_frames, find_layers
    from aselect_calibration.weights import WeightFile
    from aselect_edge.bundle import RECORD, load_bundle
    from aselect_export.graph import LOGITS, trace
    from aselect_export.schemes import RANGES

    progress("tracing the deployed graph", 0.0)
    bundle = load_bundle(folder)
    record = bundle.record
    frames = calibration_frames(data, settings.images, record.imgsz, record.resize, task=record.task)
    if frames.note:
        log.warning("%s", frames.note)
    with tempfile.TemporaryDirectory() as scratch:
        traced = trace(bundle.deployed(), record.task, 1, record.imgsz, Path(scratch))
        weights = WeightFile(traced.folder, "int8.weights")
        ranges = calibrate(traced, find_layers(traced, LOGITS), frames, settings.method_for("int8"), weights, progress)
    # The hash is removed from the record first: an interrupted run must not leave a hash that does not match.
    others = {name: digest for name, digest in record.files.items() if name != RANGES}
    record.model_copy(update={"files": others}).save(folder / RECORD)
    ranges.save(folder / RANGES)
    record.model_copy(update={"files": others | {RANGES: sha256(folder / RANGES)}}).save(folder / RECORD)
    return ranges


main = entry(_keep)

if __name__ == "__main__":
    main()
