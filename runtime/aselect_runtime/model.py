"""A model for Python programs: frames in, results out, one by one, in lists or from a stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import overload

import numpy as np

from aselect_runtime.backends import open_model
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, resize
from aselect_runtime.options import Decode, Device
from aselect_runtime.pipeline.iterating import iterate_pipeline
from aselect_runtime.pipeline.timing import lap
from aselect_runtime.progress import Progress, silent
from aselect_runtime.results import MEMORY, Captured, Result, check_answer
from aselect_runtime.sources import Source


class Model:
    """An exported model, ready to run; a context manager that closes its session at the end.

    `path` is an export folder or a .onnx file; for `device`, `progress` and the errors see `open_model`. Several
    threads may call one model, one at a time; while a stream runs, other calls are refused.
    """

    def __init__(self, path: str | Path, device: Device = "auto", *, progress: Progress = silent) -> None:
        self.manifest, self._session = open_model(path, device, progress)
        self._closed = False
        self._run: Generator[Result, None, None] | None = None
        self._lock = Lock()

    @property
    def device(self) -> str:
        """The device in use: `cpu` (ONNX Runtime), `cuda`, `tensorrt`, `openvino` or `openvino-bf16`."""
        return self._session.device

    @overload
    def __call__(self, frames: Frame) -> Result: ...

    @overload
    def __call__(self, frames: Sequence[Frame]) -> list[Result]: ...

    def __call__(self, frames: Frame | Sequence[Frame]) -> Result | list[Result]:
        """The result of a frame, BGR uint8 [H, W, 3] of any size; of a list of frames a list of results.

        A list runs in batches of the size that the model was exported with, the last one padded; its frames may have
        different sizes. Raises InputError (no such frame, a closed model, one that a stream uses) and EngineError.
        """
        single = not isinstance(frames, (list, tuple))
        given = [_checked(frame, index) for index, frame in enumerate([frames] if single else frames)]
        size = self.manifest.input.shape[0]
        with self._lock:
            self._check_free()
            found = [each for at in range(0, len(given), size) for each in self._batch(given[at : at + size], at)]
        return found[0] if single else found

    def stream(
        self,
        source: str | Path | Source,
        *,
        smooth: float | None = None,
        skip_still: float | None = None,
        decode: Decode = "auto",
    ) -> Generator[Result, None, None]:
        """Yield the results of a camera, stream, video or folder: a URI, see `open_source`, a path or an object.

        A live source is reconnected whenever its connection is lost, and only its newest result is kept; every frame of
        a file gets a result. `smooth` averages outputs over time: the weight of a new frame, 0 to 1. `skip_still`
        repeats the last result while nothing changes by more than that share, for example 0.01. `decode` is
        what decodes videos and streams: `auto`, `software` or `hardware`. Raises what `run_pipeline` raises. Closing
        the generator, or the model, closes the source and ends all threads.
        """
        with self._lock:
            self._check_free()
            run = self._run = iterate_pipeline(
                self.manifest, self._session, source, smooth=smooth, skip_still=skip_still, decode=decode
            )
        try:
            yield from run
        finally:
            self._run = None

    def close(self) -> None:
        """End a stream that is still open and release the session; call it in the thread that iterates the stream."""
        if self._run is not None:
            self._run.close()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_free(self) -> None:
        if self._closed:
            raise InputError("got a closed model, expected an open one; open another Model")
        if self._run is not None:
            raise InputError("got a model in use by a stream, expected a free one; close the stream, or open another")

    def _batch(self, frames: Sequence[Frame], first: int) -> Iterator[Result]:
        """The results of at most one batch; `first` is the number of its first frame."""
        batch, height, width, channels = self.manifest.input.shape
        pixels: Frame = np.zeros((batch, height, width, channels), np.uint8)
        resize_ms = []
        for place, frame in enumerate(frames):
            with lap() as spent:
                resize(frame, (height, width), self.manifest.resize, pixels[place])
            resize_ms.append(round(spent.ms, 3))
        with lap() as inference:
            outputs = self._session.infer(pixels)
        now = time.time()
        for place, frame in enumerate(frames):
            captured = Captured(frame, first + place, f"frame-{first + place:06d}", MEMORY)
            answer = {name: array[place] for name, array in outputs.items()}
            check_answer(captured, answer, self.manifest)
            latency = {"resize": resize_ms[place], "infer": round(inference.ms, 3)}
            yield Result(captured, answer, self.manifest, now, latency, pixels=pixels[place])


def _checked(frame: object, index: int) -> Frame:
    """The frame, if it is a valid one; raises InputError otherwise."""
    if isinstance(frame, np.ndarray):
        if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
            return frame
        got = f"{frame.dtype} {list(frame.shape)}"
    else:
        got = "None, which cv2.imread returns if it cannot read a file" if frame is None else type(frame).__name__
    raise InputError(
        f"frame {index}: got {got}, expected uint8 [H, W, 3] in BGR order; give a frame as cv2.imread returns it, or "
        "a list of such frames"
    )
