"""synthetic://street, a procedural street scene: `?seed=0&size=360x640&frames=300&fps=15`."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit

from aselect_runtime.addresses import split_options
from aselect_runtime.errors import InputError
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.scenes import Street

EXAMPLE = "synthetic://street?seed=0&size=360x640&frames=300&fps=15"


class Synthetic:
    """A synthetic street; every frame is delivered, and the same URI gives the same frames."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        options = {"seed": "0", "size": "360x640", "frames": "300", "fps": "15"}
        given = split_options(parts.query, options)
        if parts.netloc != "street" or parts.path or parts.fragment or given is None:
            raise InputError(f"{uri}: unknown scene or option, expected for example {EXAMPLE}")
        options |= given
        try:
            height, width = (int(side) for side in options["size"].split("x"))
            seed, fps, self._frames = int(options["seed"]), float(options["fps"]), int(options["frames"])
        except ValueError as error:
            raise InputError(f"{uri}: got an option that is not a number, expected for example {EXAMPLE}") from error
        if not (32 <= height <= 4096 and 32 <= width <= 4096 and self._frames > 0 and seed >= 0 and 0 < fps <= 1000):
            raise InputError(f"{uri}: an option is out of range, expected 32 to 4096 pixels, for example {EXAMPLE}")
        self._street = Street(seed, height, width, fps)
        self.info = SourceInfo(uri, fps)

    def __enter__(self) -> Synthetic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[Captured]:
        for index in range(self._frames):
            frame, _ = self._street.frame(index)
            yield Captured(frame, index, f"street-{index:06d}", self.info)
