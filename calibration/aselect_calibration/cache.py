"""The calibration cache: a file per graph, data, method, batch and software, so that exports measure only once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aselect_calibration.ranges import Ranges
from aselect_calibration.thresholds import Method
from aselect_runtime.errors import IntegrityError, RecordError, WriteError
from aselect_runtime.local_cache import software
from aselect_runtime.records import DataFingerprint

PACKAGES = ("aselect_calibration", "aselect_runtime", "onnxruntime", "cv2", "numpy")
"""This project, and what runs the graph, reads the images and counts the values. torch and onnx make the graph, whose
digest is known."""


def cached(
    folder: Path,
    graph: str,
    data: DataFingerprint,
    method: Method,
    batch: int,
    compute: Callable[[], Ranges],
) -> Ranges:
    """The ranges of this graph (its digest) on this data: read from `folder` if stored there, else computed and stored.

    Ranges that other versions of this project or of its libraries computed are not read: their numbers may differ.
    Raises IntegrityError for a file that is corrupt or holds the ranges of another graph or method.
    """
    decides = f"{graph} {data.sha256} {data.images} {method} {batch} {software(*PACKAGES)}"
    key = hashlib.sha256(decides.encode()).hexdigest()
    path = folder / f"{key[:32]}.json"
    if not path.exists():
        ranges = compute()
        with suppress(WriteError):  # a failed write only makes the next export slower
            ranges.save(path)
        return ranges
    try:
        ranges = Ranges.load(path)
    except RecordError as error:
        raise IntegrityError(f"{error}; the calibration cache is corrupt, remove {path}") from error
    if (ranges.graph, ranges.data, ranges.method, ranges.batch) != (graph, data, method, batch):
        raise IntegrityError(
            f"{path}: got the ranges of graph {ranges.graph[:12]}… by {ranges.method}, expected {graph[:12]}… by "
            f"{method}; the calibration cache has been changed, remove the file"
        )
    return ranges
