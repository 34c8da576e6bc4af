"""One image, or every image and video below a folder, sorted by path."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from aselect_runtime.errors import InputError
from aselect_runtime.frames import read_image
from aselect_runtime.media import is_video, list_media, printable
from aselect_runtime.results import Captured, SourceInfo
from aselect_runtime.sources.decoding import Decoding
from aselect_runtime.sources.video_file import VideoFile

FPS = 5.0
"""Frames per second of an output video of still images."""

NUMBER = re.compile(r"-\d{6,}$")
"""The end of the label of a video's frame."""

log = logging.getLogger(__name__)


class Images:
    """Reads one file at a time. If there are several, an image that cannot be decoded is logged, skipped and counted.

    Raises InputError if the only file cannot be decoded, and at the end if no file could be decoded or a video ended
    with an error. `skipped` is the number of images that could not be decoded.
    """

    def __init__(self, path: Path, decoding: Decoding | None = None) -> None:
        self._decoding = decoding or Decoding()
        self._root = path if path.is_dir() else path.parent
        self._paths = list_media(path) if path.is_dir() else [path]
        self._label = _labels(self._root, self._paths)
        self.info = SourceInfo(printable(path), FPS)
        self.labels = frozenset(self._label.values())
        self.skipped = 0

    def __enter__(self) -> Images:
        self.skipped = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[Captured]:
        index, faults = 0, []
        for path in self._paths:
            try:
                for captured in self._clip(path) if is_video(path) else self._image(path):
                    yield replace(captured, index=index)
                    index += 1
            except InputError as error:
                if len(self._paths) == 1:
                    raise
                faults.append(error)
                self.skipped += not is_video(path)
                log.warning("skipped: %s", error)
        if faults and (not index or len(faults) > self.skipped):
            others = len(faults) - 1
            more = f" (and {others} more file{'s' if others > 1 else ''})" if others else ""
            raise InputError(f"{faults[0]}{more}") from faults[0]

    def _image(self, path: Path) -> Iterator[Captured]:
        name = printable(path.relative_to(self._root))
        yield Captured(read_image(path), 0, self._label[path], self.info, file=name)

    def _clip(self, path: Path) -> Iterator[Captured]:
        with VideoFile(path, self._decoding) as video:
            info = replace(self.info, name=printable(path), fps=video.info.fps)
            for captured in video:
                yield replace(captured, label=f"{self._label[path]}-{captured.index:06d}", source=info)


def _labels(root: Path, paths: list[Path]) -> dict[Path, str]:
    """The relative path of each file without its suffix; with the suffix if two files would have the same label.

    So has a video beside an image that is named like one of its frames (`a-000000.png`).
    """
    short = {path: path.relative_to(root).with_suffix("").as_posix() for path in paths}
    often = Counter(short.values())
    frames = {NUMBER.sub("", name) for path, name in short.items() if not is_video(path) and NUMBER.search(name)}
    whole = {path for path, name in short.items() if often[name] > 1 or (is_video(path) and name in frames)}
    return {path: path.relative_to(root).as_posix() if path in whole else name for path, name in short.items()}
