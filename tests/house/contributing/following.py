"""Following a page of `docs/contributing`: its code blocks are put where the page says.

A block belongs to the file named in the line before it, which ends in "`path/of/file.py`:". A python block is a new
file. A diff block changes one that exists: what its lines with " " and "-" say must be there exactly once.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[3]
ROOMS = ("runtime", "calibration", "export", "aselect_edge", "tests")
IMPORTED = (".", "runtime", "calibration", "export")
"""Folders of a copy that belong on the import path."""

_BLOCK = re.compile(r"`(?P<file>[^`\n]+)`:\n\n```(?P<kind>python|diff)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    file: str
    kind: Literal["python", "diff"]
    text: str


def blocks(page: str) -> list[Block]:
    """The code blocks of a page that name a file."""
    return [Block(m["file"], m["kind"], m["text"]) for m in _BLOCK.finditer(page)]  # type: ignore[arg-type]


def copied(folder: Path) -> Path:
    """A copy of the code and its tests without the weights, to be changed at will."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def follow(page: str, folder: Path) -> list[Path]:
    """Do what a page says to a copy; the files written. Raises ValueError where the code is not as the page has it."""
    written = []
    for block in blocks(page):
        path = folder / block.file
        if block.kind == "python":
            if path.exists():
                raise ValueError(f"{block.file}: is there already, expected a new file")
            path.write_text(block.text, encoding="utf-8")
        else:
            path.write_text(changed(path.read_text(encoding="utf-8"), block), encoding="utf-8")
        written.append(path)
    return written


def changed(text: str, block: Block) -> str:
    """`text` after the changes of a diff block, whose places are separated by lines of "@@"."""
    for hunk in block.text.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        if ("\n" + text).count("\n" + before) != 1:
            raise ValueError(f"{block.file}: got the lines below not exactly once, expected them once\n{before}")
        text = text.replace(before, "".join(line[1:] for line in lines if line[0] in " +"))
    return text
