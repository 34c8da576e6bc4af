"""test://fault, a street camera with the faults of real ones: `?drop=0.05&stall=0.01&resize=0.02&corrupt=0.02`.

Each option is the chance of a fault at a frame, the first one of a connection excepted. The same URI has the same
faults at the same frames of every connection, so that a test can say what it expects.

    drop     the connection breaks: InputError
    stall    the read hangs for `stall_seconds`
    resize   from here on frames have another size
    corrupt  a band of the image is noise
    frames   where the stream ends by itself
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.scenes import Street
from aselect_runtime.sources.opening import SCHEMES

EXAMPLE = "test://fault?drop=0.05&stall=0.01&resize=0.02&corrupt=0.02&fps=30&frames=300&seed=0"
OPTIONS = {
    **{"drop": 0.0, "stall": 0.0, "resize": 0.0, "corrupt": 0.0, "stall_seconds": 3600.0},
    **{"fps": 30.0, "frames": 300.0, "seed": 0.0},
}
SIZES = ((96, 128), (120, 160), (48, 64), (96, 96))
SCENES = 4
"""Different images, drawn once and shown in turn: drawing each anew would be slower than a camera."""


def register() -> None:
    """Make `open_source` know the scheme `test`."""
    SCHEMES["test"] = f"{__name__}:Faulty"


class Faulty:
    """Live; raises InputError for options that it does not know."""

    def __init__(self, uri: str) -> None:
        self.info = SourceInfo(uri, fps=30.0, live=True)
        parts = urlsplit(uri)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.netloc != "fault" or parts.path or not given.keys() <= OPTIONS.keys():
            raise InputError(f"{uri}: unknown test or option, expected for example {EXAMPLE}")
        try:
            numbers = OPTIONS | {name: float(value) for name, value in given.items()}
        except ValueError as error:
            raise InputError(f"{uri}: got an option that is not a number, expected for example {EXAMPLE}") from error
        chances = [numbers[name] for name in ("drop", "stall", "resize", "corrupt")]
        if not (all(0 <= chance <= 1 for chance in chances) and 0 < numbers["fps"] <= 1000 and numbers["seed"] >= 0):
            raise InputError(f"{uri}: an option is out of range, expected for example {EXAMPLE}")
        self.info = SourceInfo(uri, numbers["fps"], live=True)
        self._numbers = numbers

    def __enter__(self) -> Faulty:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[Captured]:
        random = np.random.default_rng(int(self._numbers["seed"]))
        scenes = _scenes(int(self._numbers["seed"]))
        size = 0
        for index in range(int(self._numbers["frames"])):
            time.sleep(1 / self.info.fps)
            drop, stall, resize, corrupt = (
                index > 0 and random.random() < self._numbers[fault] for fault in ("drop", "stall", "resize", "corrupt")
            )
            if drop:
                raise InputError(f"{self.info.name}: got no frame {index}, expected a stream; this fault was asked for")
            if stall:
                time.sleep(self._numbers["stall_seconds"])
            size = (size + resize) % len(SIZES)
            frame = scenes[size][index % SCENES]
            yield Captured(_corrupted(frame, random) if corrupt else frame, index, f"fault-{index:06d}", self.info)


@cache
def _scenes(seed: int) -> list[list[Frame]]:
    """The images of each size."""
    return [[Street(seed, *size, fps=15).frame(number * 5)[0] for number in range(SCENES)] for size in SIZES]


def _corrupted(frame: Frame, random: np.random.Generator) -> Frame:
    """A copy with a band of noise, as a decoder shows it that lost a packet."""
    noisy = frame.copy()
    band = noisy[frame.shape[0] // 3 : frame.shape[0] // 2]
    band[:] = random.integers(0, 256, band.shape)
    return noisy
