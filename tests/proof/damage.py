"""One damaged input after the other, in a process that may die of it: what `tests.proof.damaged` starts.

    python -m tests.proof.damage FOLDER FIRST LAST

Before each it prints its number, and then what became of it.
"""

from __future__ import annotations

import random
import re
import resource
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from aselect_runtime.errors import AselectError
from aselect_runtime.files import sha256

KINDS = (
    *("video.mp4", "image.jpg", "image.png", "verify.npz", "model.onnx"),
    *("selection.json", "bundle.json", "classes.json", "rules.toml"),
)
"""The files of the folder, each of which is damaged in its turn."""
ROOM = 8 << 30
"""Bytes of address space for one process: a request for more is an error there, and harms no other process."""


def damaged(content: bytes, number: int) -> bytes:
    """The content with one to four changes, the same for the same number."""
    chance = random.Random(number)
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 2, 4, 16, 200))
        how = chance.choice(("flip", "flip", "cut", "drop", "twice", "noise", "ones", "number"))
        if how == "flip" and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif how == "cut" and at:
            del data[at:]
        elif how == "drop":
            del data[at : at + length]
        elif how == "twice":
            data[at:at] = data[at : at + length]
        elif how == "noise":
            data[at : at + length] = chance.randbytes(length)
        elif how == "ones":
            data[at : at + min(length, 16)] = b"\xff" * min(length, 16)
        elif digits := list(re.finditer(rb"\d+", bytes(data[:100_000]))):
            found = chance.choice(digits)
            data[found.start() : found.end()] = chance.choice((b"-1", b"0", b"1e999", b"9" * 30, b"null", b'"x"'))
    return bytes(data)


def _use_verify(path: Path) -> None:
    from aselect_runtime.engines.parity import verification_frames
    from aselect_runtime.records import Manifest

    manifest = Manifest.load(path.parent / "manifest.json")
    listed = manifest.model_copy(update={"files": {**manifest.files, path.name: sha256(path)}})
    verification_frames(path.parent, listed)


def _use_model(path: Path) -> None:
    from aselect_runtime import open_model

    manifest, session = open_model(path, "cpu")
    session.infer(np.zeros(manifest.input.shape, np.uint8))
    session.close()


def _use_source(path: Path) -> None:
    from aselect_runtime.sources import open_source

    with open_source(str(path)) as source:
        list(islice(source, 100))


def _use_record(path: Path) -> None:
    from aselect_edge.data.classes import read_classes
    from aselect_runtime.records import Bundle, Selection
    from aselect_runtime.rules import load_rules

    readers: dict[str, Callable[[Path], object]] = {
        "selection.json": Selection.load,
        "bundle.json": Bundle.load,
        "classes.json": read_classes,
        "rules.toml": load_rules,
    }
    readers[path.name](path)


USES: dict[str, Callable[[Path], None]] = {
    **{".npz": _use_verify, ".onnx": _use_model},
    **dict.fromkeys((".mp4", ".jpg", ".png"), _use_source),
}


def outcome(folder: Path, scratch: Path, number: int) -> str:
    """`fine`, `refused`, or the first line of any other error."""
    name = KINDS[number % len(KINDS)]
    path = scratch / name
    path.write_bytes(damaged((folder / name).read_bytes(), number))
    try:
        USES.get(path.suffix, _use_record)(path)
    except AselectError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except BaseException as error:
        return f"{name} {number}: {type(error).__name__}: {error}"
    return "fine"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    place, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work = place / f"work-{first}"
    work.mkdir(exist_ok=True)
    (work / "manifest.json").write_bytes((place / "manifest.json").read_bytes())
    for each in range(first, last):
        print(each, flush=True)
        print(" ".join(outcome(place, work, each).split())[:300], flush=True)
