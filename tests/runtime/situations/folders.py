"""Folders, and several inputs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.runtime.situations.case import Make, Place, Run, lines
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import COUNT, SHARES, picture, video

NOBODY = 65534
AS_NOBODY = f"os.setgid({NOBODY}); os.setuid({NOBODY})"


def _files(done: Done, *wanted: str | None) -> None:
    assert [line.get("file") for line in lines(done)] == list(wanted)


def _masks(done: Done, *names: str, folder: str = "masks") -> None:
    found = sorted(path.relative_to(done.folder / folder).as_posix() for path in (done.folder / folder).rglob("*.png"))
    assert found == sorted(names)


def _white(path: Path) -> float:
    """The share of a mask that is of the class bright."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    return float((mask == 2).mean())


def _clips(place: Place) -> Run:
    place.file("in/notes.txt")
    for name in ("b.mp4", "a.mkv"):
        video(place.folder / "in" / name)
    return Run(["in"], shares=[*SHARES, *SHARES])


def _mixed(place: Place) -> Run:
    picture(place.folder / "in/a.png", 2)
    video(place.folder / "in/b.mp4", numbers=[4, 6])
    picture(place.folder / "in/c/d.jpg", 8)
    place.file("in/notes.txt", b"hello")
    return Run(["in"], shares=[0.25, 0.5, 0.75, 1.0], check=lambda done: _files(done, "a.png", None, None, "c/d.jpg"))


def _nothing(place: Place) -> Run:
    (place.folder / "in").mkdir()
    return Run(["in"], told="in: got no image or video, expected at least one of .264")


def _text_alone(place: Place) -> Run:
    place.file("in/notes.txt", b"hello")
    return Run(["in"], told="in: got no image or video")


def _heic_alone(place: Place) -> Run:
    place.file("in/a.heic", b"\0")
    place.file("in/b.HEIC", b"\0")
    return Run(["in"], told="in: got 2 images such as a.heic, which OpenCV does not read.*convert them to .jpg")


def _heic_too(place: Place) -> Run:
    place.file("in/a.heic", b"\0")
    picture(place.folder / "in/b.png")
    return Run(["in"], shares=[0.5], warned="in: left out 1 images such as a.heic")


def _hidden(place: Place) -> Run:
    for name in ("a.png", ".b.png", "__MACOSX/._a.png", "@eaDir/a.png"):
        picture(place.folder / "in" / name)
    check = lambda done: _files(done, "a.png")  # noqa: E731
    return Run(["in"], shares=[0.5], check=check, warned="left out 3 hidden folders and files")


def _one_bad(place: Place) -> Run:
    for name in ("a.png", "c.png"):
        picture(place.folder / "in" / name)
    place.file("in/b.png", b"\x89PNG nonsense")

    def check(done: Done) -> None:
        _files(done, "a.png", "c.png")
        assert "in: skipped 1 images that do not decode" in done.stderr

    return Run(["in"], shares=[0.5, 0.5], check=check, warned="skipped: in/b.png: got 13 bytes that do not decode")


def _all_bad(place: Place) -> Run:
    place.file("in/a.png", b"nonsense")
    place.file("in/b.png", b"nonsense")
    return Run(
        ["in"], told=r"a\.png: got 8 bytes that do not decode.*\(and 1 more file\)", warned="skipped: in/[ab].png"
    )


def _one_bad_clip(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    place.file("in/b.mp4", b"nonsense")
    picture(place.folder / "in/c.png")
    told = r"b\.mp4: got 8 bytes that cannot be opened.*kept: .*out.jsonl \(2 frames\)"
    return Run(["in"], told=told, shares=[0.5, 0.5], warned="skipped: in/b.mp4")


def _circle(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    (place.folder / "in/again").symlink_to("../in")
    return Run(["in"], shares=[0.5])


def _linked(place: Place) -> Run:
    picture(place.folder / "elsewhere/a.png")
    (place.folder / "in").symlink_to("elsewhere")
    return Run(["in"], shares=[0.5])


def _here(place: Place) -> Run:
    picture(place.folder / "a.png")
    return Run(["."], shares=[0.5])


def _named_like_a_video(place: Place) -> Run:
    picture(place.folder / "a.mp4/b.png")
    return Run(["a.mp4"], shares=[0.5])


def _named_like_a_camera(place: Place) -> Run:
    picture(place.folder / "0/b.png")
    return Run(["0"], shares=[0.5])


def _same_stem(place: Place) -> Run:
    picture(place.folder / "in/a.jpg", 2)
    picture(place.folder / "in/a.png", 6)
    check = lambda done: _masks(done, "a.jpg.png", "a.png.png")  # noqa: E731
    return Run(["in"], ("out.jsonl", "masks/"), shares=[0.25, 0.75], check=check)


def _like_a_frame(place: Place) -> Run:
    """An image that is named like a frame of a video beside it: both have an overlay and a mask."""
    picture(place.folder / "in/a-000000.png", 8)
    video(place.folder / "in/a.mp4", numbers=[2])

    def check(done: Done) -> None:
        assert len(list((done.folder / "out").iterdir())) == 2
        masks = sorted((done.folder / "masks").glob("*.png"))
        shares = [_white(path) for path in masks]
        assert sorted(shares) == pytest.approx([0.25, 1], abs=0.04)

    return Run(["in"], ("out.jsonl", "out/{name}.png", "masks/"), shares=[1, 0.25], check=check)


def _two_of_one_stem(place: Place) -> Run:
    picture(place.folder / "x/a.png", 2)
    picture(place.folder / "y/a.png", 6)

    def check(done: Done) -> None:
        _masks(done, "a.png", "a-1/a.png")
        white = {name: _white(done.folder / "masks" / name) for name in ("a.png", "a-1/a.png")}
        assert white == pytest.approx({"a.png": 0.25, "a-1/a.png": 0.75}, abs=0.04)
        assert [line["areas"]["bright"] for line in lines(done)] == pytest.approx([0.25, 0.75], abs=0.04)

    return Run(["x/a.png", "y/a.png"], ("out.jsonl", "masks/"), check=check)


def _twice(place: Place) -> Run:
    video(place.folder / "a.mp4")

    def check(done: Done) -> None:
        assert len(lines(done)) == 2 * COUNT

    return Run(["a.mp4", "a.mp4"], check=check)


def _masks_below(place: Place) -> Run:
    """The masks of an earlier run lie below the folder: they are results and not read."""
    picture(place.folder / "in/a.png")
    return Run(["in"], ("out.jsonl", "in/masks/"), shares=[0.5], check=_again, times=2)


def _again(done: Done) -> None:
    _masks(done, "a.png", folder="in/masks")
    assert [path.name for path in (done.folder / "in").iterdir() if path.suffix] == ["a.png"]


def _overlay_below(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    return Run(["in"], ("in/b.png",), told="got an image below the input folder, expected a path outside it")


def _below(output: str, told: str) -> Make:
    """What the next run would read as an input."""

    def make(place: Place) -> Run:
        picture(place.folder / "in/a.png")
        return Run(["in"], (output,), told=told)

    return make


def _frames_below(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    return Run(
        ["in"], options=["--record-calibration", "in/frames"], told="got a folder of images below the input folder"
    )


def _events_below(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    place.file("r.toml", b'[[rules]]\nname = "white"\nclass = "bright"\nabove = 0.5\nfor = 1\n')
    told = "in/e.jsonl: got a file with snapshots beside it below the input folder"
    return Run(["in"], options=["--rules", "r.toml", "--events", "in/e.jsonl"], told=told)


def _hard_link(place: Place) -> Run:
    path = video(place.folder / "a.mp4")
    (place.folder / "b.mp4").hardlink_to(path)
    content = path.read_bytes()

    def check(_: Done) -> None:
        assert path.read_bytes() == content

    return Run(["a.mp4"], ("b.mp4",), told="got the path of an input, expected another one", check=check)


def _fallen(first: str, told: str) -> Make:
    """The first of two inputs is bad: the second follows, and the line says what is missing."""

    def make(place: Place) -> Run:
        place.file("a.mp4", b"nonsense")
        video(place.folder / "b.mp4")
        return Run([first, "b.mp4"], shares=SHARES, told=told, warned="continuing without it")

    return make


def _first_missing(place: Place) -> Run:
    """Noticed before the start: a name that is mistyped."""
    video(place.folder / "b.mp4")
    return Run(["a.mp4", "b.mp4"], told="a.mp4: no such input")


def _foreign(
    place: Place, prepare: str, inputs: list[str], told: str, outputs: tuple[str, ...] = ("out.jsonl",)
) -> Run:
    """As a user who may not read or write everything; `prepare` is the shell's."""
    subprocess.run(["/bin/sh", "-c", prepare], cwd=place.folder, check=True)
    if os.geteuid():
        return Run(inputs, outputs, told=told)
    for given in (place.folder, *place.models.values()):
        for folder in (given, *given.parents):
            if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
                folder.chmod(folder.stat().st_mode | 0o55)
    for model in place.models.values():
        for file in model.iterdir():
            file.chmod(0o644)
    return Run(inputs, outputs, told=told, before=AS_NOBODY)


def _unreadable(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    return _foreign(place, "chmod 0 in", ["in"], "in: unreadable .Permission denied", ("masks.jsonl",))


def _unreadable_below(place: Place) -> Run:
    picture(place.folder / "in/a.png")
    picture(place.folder / "in/b/c.png")
    return _foreign(place, "chmod 0 in/b; chmod 777 .", ["in"], "in/b: unreadable .Permission denied")


def _unreadable_file(place: Place) -> Run:
    picture(place.folder / "a.png")
    return _foreign(place, "chmod 0 a.png; chmod 777 .", ["a.png"], "a.png: unreadable .Permission denied")


def _unreadable_video(place: Place) -> Run:
    video(place.folder / "a.mp4")
    return _foreign(place, "chmod 0 a.mp4; chmod 777 .", ["a.mp4"], "a.mp4: unreadable .Permission denied")


def _read_only(output: str) -> Make:
    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        return _foreign(place, "chmod 755 .", ["a.mp4"], "Permission denied.*expected a writable path", (output,))

    return make


CASES: dict[str, Make] = {
    "clips": _clips,
    "mixed": _mixed,
    "empty": _nothing,
    "text alone": _text_alone,
    "heic alone": _heic_alone,
    "heic too": _heic_too,
    "hidden files": _hidden,
    "one bad picture": _one_bad,
    "all bad": _all_bad,
    "one bad clip": _one_bad_clip,
    "link in a circle": _circle,
    "link to a folder": _linked,
    "working folder": _here,
    "named like a video": _named_like_a_video,
    "named like a camera": _named_like_a_camera,
    "a.jpg and a.png": _same_stem,
    "a-000000.png and a.mp4": _like_a_frame,
    "two inputs of one stem": _two_of_one_stem,
    "an input twice": _twice,
    "masks below the input": _masks_below,
    "overlay below the input": _overlay_below,
    "overlay video below the input": _below(
        "in/b.mp4", "got a video below the input folder, expected a path outside it"
    ),
    "frames for INT8 below the input": _frames_below,
    "events below the input": _events_below,
    "output is a hard link to the input": _hard_link,
    "first of two is bad": _fallen("a.mp4", r"a\.mp4: got 8 bytes .*kept: .*out.jsonl \(9 frames\)"),
    "first of two is missing": _first_missing,
    "unreadable": _unreadable,
    "unreadable below": _unreadable_below,
    "unreadable image": _unreadable_file,
    "unreadable video": _unreadable_video,
    **{f"read-only, {name}": _read_only(name) for name in ("a.jsonl", "b.mp4", "a.png", "masks/", "{name}.png")},
}
