"""The classes of a data set: from `classes.json`, or by name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

from aselect_edge.data.lists import read_text
from aselect_runtime.errors import InputError
from aselect_runtime.files import read_file
from aselect_runtime.records import ClassInfo

FILE = "classes.json"
VALUES = "_classes.csv"
"""Roboflow's table of the values in its masks."""
Colour = tuple[int, int, int]


def read_classes(path: Path) -> tuple[tuple[ClassInfo, ...], int]:
    """Classes in the order of their ids, and the ignore index (255 if the file names none)."""
    try:
        content: dict[str, Any] = json.loads(read_file(path).decode("utf-8-sig"))
        entries = sorted(content["classes"], key=lambda entry: entry["id"])
        classes = tuple(ClassInfo(name=e["name"], colour=e.get("color_rgb", _colour(e["id"]))) for e in entries)
        ids = [_whole(entry["id"], "id") for entry in entries]
        ignore = _whole(content.get("ignore_index", 255), "ignore_index")
        others = [key for entry in entries for key in entry if key != "color_rgb" and key.lower().startswith("colo")]
        if others:
            raise ValueError(f"got {others[0]!r} of a class, expected color_rgb")
        # With more than 255 classes, 255 is an ordinary class unless the file says otherwise.
        void = ignore if "ignore_index" in content or len(ids) <= 255 else None
    except OSError as error:
        raise InputError(f"{path}: unreadable ({error.strerror}), expected the list of classes; add it") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f'{path}: not understood ({reason}), expected {{"classes": [{{"id": 0, "name": "road"}}, …]}}; correct it'
        ) from error
    unknown = next((key for key in content if re.search("ignore|void", key.lower())), None)
    if "ignore_index" not in content and unknown is not None:
        raise InputError(f"{path}: got {unknown!r}, expected ignore_index for pixels without a class; rename it")
    if not 0 <= ignore <= 255:
        raise InputError(f"{path}: got ignore_index {ignore}, expected 0 to 255; correct it")
    names = [info.name for info in classes]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: got a class name twice among {', '.join(names)}, expected unique names; rename one")
    known = [i for i in ids if i != void]
    if known != list(range(len(known))) or not known:
        wrong = next((i for i, at in zip(known, range(len(known)), strict=True) if i != at), "none")
        raise InputError(
            f"{path}: got class id {wrong} out of order, expected 0, 1, 2 and so on without gaps; renumber them"
        )
    if content.get("num_classes") != len(ids):  # some lists count the class of pixels without a label too
        refuse_count(path, "num_classes", content.get("num_classes"), len(known))
    return tuple(info for info, i in zip(classes, ids, strict=True) if i != void), ignore


def _whole(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"got {key} {value!r}, expected a whole number")
    return value


def refuse_count(path: Path, key: str, stated: Any, found: int) -> None:
    """Raise InputError if a file of classes states another number of them than it lists."""
    if stated is not None and stated != found:
        raise InputError(f"{path}: got {key} {stated!r} and {found} classes, expected the same number; correct it")


def says_ignored(path: Path) -> bool:
    """Whether a list of classes defines its ignore index."""
    return "ignore_index" in json.loads(read_file(path).decode("utf-8-sig"))


def read_values(path: Path) -> dict[int, str]:
    """Value -> name, sorted by value, from lines `0, background` below a header."""
    rows = [line.split(",", 1) for line in read_text(path).splitlines() if line.strip()]
    numbered = [(value.strip(), name.strip()) for value, *rest in rows for name in rest]
    if numbered and not numbered[0][0].isdecimal():
        del numbered[0]
    if len(numbered) < len(rows) - 1 or not all(value.isdecimal() and int(value) <= 255 for value, _ in numbered):
        raise InputError(f"{path}: not understood, expected lines with a value from 0 to 255 and its class; correct it")
    return {int(value): name for value, name in sorted(numbered, key=lambda row: int(row[0]))}


def name_classes(names: Sequence[str], source: Path, colours: Sequence[Colour] = ()) -> tuple[ClassInfo, ...]:
    """Classes by name, with `colours` or generated ones; raises InputError for no, an empty or a duplicate name."""
    doubles = (
        [name for index, name in enumerate(names) if name in names[:index]] if len(set(names)) < len(names) else []
    )
    if not names or not all(names) or doubles:
        got = f"the class {doubles[0]!r} twice" if doubles else "a class without a name" if names else "no class"
        raise InputError(f"{source}: got {got}, expected a unique name for each class; correct it")
    colours = colours or [_colour(index) for index in range(len(names))]
    try:
        return tuple(ClassInfo(name=n, colour=c) for n, c in zip(names, colours, strict=True))
    except ValidationError as error:
        raise InputError(
            f"{source}: got an invalid class ({error.errors()[0]['msg']}), expected names of at most 200 "
            "letters; correct it"
        ) from error


def refuse_single(data: Path, names: Sequence[str]) -> None:
    """Raise InputError for fewer than two classes: every answer would be right, and the figures 100 %."""
    if len(names) < 2:
        raise InputError(told_single(data, names))


def told_single(data: Path, names: Sequence[str]) -> str:
    """What `refuse_single` says of fewer than two classes."""
    got = f"only the class {names[0]!r}" if names else "no class"
    return f"{data}: got {got}, expected labels of two classes or more; add images of what is to be told apart from it"


def _colour(index: int) -> Colour:
    """A distinct colour for a class without one: hues are a golden angle apart."""
    hsv = np.array([[[int(index * 137.508) % 180, 200, 230]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)
