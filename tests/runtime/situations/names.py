"""File names as people and cameras give them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.runtime.situations.case import NEAR, Make, Place, Run, lines
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import SHARES, picture, video


def _named(name: str, given: str = "") -> Make:
    """A video of this name; results and an overlay are named after it."""

    def make(place: Place) -> Run:
        path = video(place.folder / "first.mp4", numbers=[4, 8])
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(place.folder / name)

        def check(done: Done) -> None:
            printable = os.fsencode(given or name).decode(errors="replace")
            assert {line["source"] for line in lines(done)} == {os.path.normpath(printable)}
            assert len(list((done.folder / "out").iterdir())) == 2
            assert (done.folder / "out.mp4").stat().st_size

        return Run([given or name], ("out.jsonl", "out.mp4", "out/{name}.png"), shares=[0.5, 1], check=check)

    return make


def _pictured(name: str) -> Make:
    def make(place: Place) -> Run:
        picture(place.folder / "first.png").rename(place.folder / name)

        def check(done: Done) -> None:
            (line,) = lines(done)
            assert line["file"] == os.fsencode(name).decode(errors="replace")

        return Run([name], shares=[0.5], check=check)

    return make


def _told(given: str, told: str, *files: str, environment: Mapping[str, str] | None = None) -> Make:
    def make(place: Place) -> Run:
        for file in files:
            place.file(file)
        return Run([given], told=told, environment=environment or {})

    return make


def _pipe(place: Place) -> Run:
    os.mkfifo(place.folder / "a.mp4")
    return Run(["a.mp4"], told="got a pipe, socket or device.*write it to a file first")


def _link(place: Place) -> Run:
    video(place.folder / "first.mp4")
    (place.folder / "a.mp4").symlink_to("first.mp4")
    return Run(["a.mp4"], shares=SHARES)


def _dangling(place: Place) -> Run:
    (place.folder / "a.mp4").symlink_to("nowhere.mp4")
    return Run(["a.mp4"], told="a.mp4: no such input")


def _circle(place: Place) -> Run:
    (place.folder / "a.mp4").symlink_to("a.mp4")
    return Run(["a.mp4"], told="a.mp4: ")


def _device(place: Place) -> Run:
    (place.folder / "a.mp4").symlink_to("/dev/zero")
    return Run(["a.mp4"], told="got a pipe, socket or device")


def _absolute(place: Place) -> Run:
    return Run([str(video(place.folder / "a.mp4"))], shares=SHARES)


def _home(_: Place) -> Run:
    """The shell expands ~; in quotes it is a folder that does not exist."""
    return Run(["~/a.mp4"], told="~/a.mp4: no such input")


def _parent(place: Place) -> Run:
    video(place.folder / "a.mp4")
    (place.folder / "below").mkdir()
    return Run(["below/../a.mp4"], shares=SHARES)


def _model(name: str) -> Make:
    """An export folder of this name."""

    def make(place: Place) -> Run:
        for file in place.models["seg"].iterdir():
            place.file(f"{name}/{file.name}", file.read_bytes())
        video(place.folder / "a.mp4")
        return Run(["a.mp4"], model=name, shares=SHARES)

    return make


def _told_of_model(place: Place) -> Run:
    for file in place.models["seg"].iterdir():
        place.file(f"mod\udce9l/{file.name}", file.read_bytes())
    video(place.folder / "a.mp4")
    return Run(["a.mp4"], model="mod\udce9l", told="got a name that is not valid UTF-8.*; rename")


def _below(name: str) -> Make:
    """The command runs in a folder of this name."""

    def make(place: Place) -> Run:
        (place.folder / name).mkdir()
        video(place.folder / "a.mp4").rename(place.folder / name / "a.mp4")

        def check(done: Done) -> None:
            assert [line["areas"]["bright"] for line in lines(done, f"{name}/out.jsonl")] == pytest.approx(
                SHARES, abs=NEAR
            )
            assert (done.folder / name / "b.mp4").stat().st_size
            assert len(list((done.folder / name / "masks").iterdir())) == len(SHARES) + 1

        outputs = ("out.jsonl", "b.mp4", "masks/")
        return Run(["a.mp4"], outputs, check=check, before=f"os.chdir({name!r})")

    return make


LONG = "x" * 300
CASES: dict[str, Make] = {
    **{
        repr(name): _named(name)
        for name in (
            *("a b.mp4", "a\nb.mp4", "a\tb.mp4", "a:b.mp4", "rtsp:x.mp4", "concat:a.mp4", "file:a.mp4", "pipe:1.mp4"),
            *("data:a.mp4", "a%d.mp4", "%03d.mp4", "a ! b.mp4", "a!b.mp4", "a'b.mp4", 'a"b.mp4', "a\\b.mp4", "a|b.mp4"),
            *("a;b.mp4", "a&b.mp4", "a#b.mp4", "a?b.mp4", "a*b.mp4", "[a].mp4", "{a}.mp4", "$HOME.mp4", "a@b.mp4"),
            *(
                "été.mp4",
                "видео.mp4",
                "映像.mp4",
                "🎥.mp4",
                "a=b.mp4",
                " .mp4",
                "a .mp4",
                "a..mp4",
                "100%.mp4",
                "~a.mp4",
            ),
            *("\x1b[31mred.mp4", "a\x07b.mp4", "caf\udce9.mp4", "deep/er/a.mp4", "y" * 251 + ".mp4", "0.mp4"),
        )
    },
    "./ before a dash": _named("-a.mp4", "./-a.mp4"),
    "./ before a scheme": _named("http:/a.mp4", "./http:/a.mp4"),
    "picture not UTF-8": _pictured("caf\udce9.png"),
    "picture %d": _pictured("%d.png"),
    "picture of a newline": _pictured("a\nb.png"),
    "absolute": _absolute,
    "through ..": _parent,
    "link": _link,
    "link to nowhere": _dangling,
    "link to itself": _circle,
    "link to a device": _device,
    "pipe": _pipe,
    "~ in quotes": _home,
    "standard input": _told("-", "-: no such input"),
    "model not UTF-8": _told_of_model,
    "model of a newline": _model("mod\nel [a] %d"),
    "working folder not UTF-8": _below("here\udce9"),
    "working folder of a protocol": _below("rtsp:x ! y"),
    "empty": _told("", "got an empty word, expected text"),
    "blank": _told(" ", "no such input"),
    "dash": _told("-a.mp4", "No such option", "-a.mp4"),
    "missing": _told("a.mp4", "a.mp4: no such input.*check the path"),
    "missing folder": _told("a/", "no such input.*check the path"),
    "slash behind a file": _told("a.mp4/", "a.mp4", "a.mp4"),
    "file as a folder": _told("a.mp4/b.mp4", "a.mp4", "a.mp4"),
    "300 characters": _told(LONG + ".mp4", "File name too long"),
    "300 characters without a suffix": _told(LONG, "File name too long"),
    "a path of 5000": _told("x/" * 2500 + "a.mp4", "File name too long"),
    "wildcard in quotes": _told("*.mp4", r"\*.mp4: no such input", "a.mp4"),
    "null device": _told("/dev/null", "/dev/null: .*expected"),
    "zeros": _told("/dev/zero", "/dev/zero: .*expected"),
    "variable": _told("${ASELECT_NOWHERE}.mp4", "got \\$\\{ASELECT_NOWHERE\\} .*expected an environment variable"),
    "one slash": _told("rtsp:/camera/1", "got an address without ://.*expected for example rtsp://host/stream"),
    "no scheme": _told("joe:pw@camera/1", "got an address without ://"),
    "www": _told("www.example.org/a.mp4", "no such input"),
    "scheme that is none": _told("screen://0", "got the scheme screen, expected"),
    "ftp": _told("ftp://host/a.mp4", "got the scheme ftp, expected"),
    "file scheme": _told("file:///a.mp4", "got the scheme file, expected"),
    "webcam": _told("webcam", "no such input.*/dev/videoN or its number"),
}
