"""One image, or every image below a folder in the order of their paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from aselect_runtime.frames import read_image
from aselect_runtime.media import list_images
from aselect_runtime.results import Captured, SourceInfo

FPS = 5.0
"""How fast a video of still images plays."""


class Images:
    """Reads lazily; an image that does not decode raises InputError when its turn comes."""

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        self._paths = list_images(path) if path.is_dir() else [path]
        self.info = SourceInfo(str(path), FPS)

    def __enter__(self) -> Images:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[Captured]:
        for index, path in enumerate(self._paths):
            label = path.relative_to(self._root).with_suffix("").as_posix()
            yield Captured(read_image(path), index, label, self.info)
