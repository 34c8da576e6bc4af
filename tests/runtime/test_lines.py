"""Lines of results: whole lines alone, also where the disk takes a part of one."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from aselect_runtime.errors import WriteError
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks.lines import lines
from tests.runtime.manifests import small_manifest


def a_result(number: int, label: str = "a") -> Result:
    """A result whose line is longer than 300 bytes."""
    frame = np.zeros((4, 4, 3), np.uint8)
    captured = Captured(frame, number, label, SourceInfo("x" * 300, 25.0), 0.0, 0.0)
    return Result(captured, {"class_map": np.zeros((24, 32), np.uint8)}, small_manifest(), 0.0, {})


@contextmanager
def _file_limit(size: int) -> Iterator[None]:
    """A limit for files: the kernel writes the part of a line that fits, and refuses the next byte."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_line_that_was_written_in_part_is_an_error_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with lines(path) as write:
        write(a_result(0))
        size = path.stat().st_size
        with _file_limit(size + 100), pytest.raises(WriteError, match=r"a\.jsonl: could not write \(File too large\)"):
            write(a_result(1))
        assert path.stat().st_size == size
        write(a_result(2))
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [0, 2]
