"""The pages on how to add something are true: each is followed to the letter on a copy of the code, and works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.contributing.following import IMPORTED, ROOT, Block, blocks, changed, copied, follow

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/contributing").glob("*.md"))}
KINDS = {"backbone-family", "data-layout", "head", "sink", "source", "strategy"}


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    paths = [*(folder / place for place in IMPORTED), ROOT / "weights"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(done, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_there_is_a_page_for_each_thing_to_add() -> None:
    assert set(PAGES) == KINDS


def test_what_the_pages_say_works(tmp_path: Path) -> None:
    """All on one copy, in one process: torch takes seconds to import."""
    folder = copied(tmp_path / "copy")
    written = {page: follow(text, folder) for page, text in PAGES.items()}
    files = [path for paths in written.values() for path in paths]
    for check in (("ruff", "check"), ("ruff", "format", "--check")):
        done = run(folder, *check, *files)
        assert done.returncode == 0, done.stdout
    tests = {page: [path for path in paths if path.is_relative_to(folder / "tests")] for page, paths in written.items()}
    assert all(tests.values())
    done = run(folder, "pytest", "-p", "no:cacheprovider", *(path for paths in tests.values() for path in paths))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_files_to_touch_are_there(page: str) -> None:
    new = {block.file for block in blocks(PAGES[page]) if block.kind == "python"}
    named = set(re.findall(r"`((?:runtime|aselect_edge|tests|docs)/[^`\s]*)`", PAGES[page]))
    assert named > new
    assert [name for name in sorted(named - new) if not (ROOT / name).exists()] == []


def test_a_page_that_is_no_longer_true_is_found() -> None:
    text = "a = 1\nb = 2\n"
    assert changed(text, Block("x.py", "diff", " a = 1\n+c = 3\n@@\n-b = 2\n+b = 4\n")) == "a = 1\nc = 3\nb = 4\n"
    for gone in (" a = 5\n+c = 3\n", "-b = 1\n"):
        with pytest.raises(ValueError, match=r"x\.py: got the lines below not exactly once"):
            changed(text, Block("x.py", "diff", gone))
