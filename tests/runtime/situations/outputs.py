"""Outputs and options."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.runtime import videos
from tests.runtime.rtsp_server import free_port
from tests.runtime.situations.case import Make, Place, Run, lines
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import COUNT, SHARES, picture, video

SMALL = "limit = {}; import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
SMALL += "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))"
LONG = "x" * 300


def _image(path: Path) -> Any:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)  # any name will do
    assert image is not None, path
    return image


def _written(
    outputs: Sequence[str], check: Callable[[Done], object], options: Sequence[str] = (), model: str = "seg"
) -> Make:
    """The video's nine frames to these outputs."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        return Run(["a.mp4"], outputs, options, model, check=check)

    return make


def _told(
    outputs: Sequence[str], told: str, options: Sequence[str] = (), model: str = "seg", *, files: Sequence[str] = ()
) -> Make:
    """Refused before anything is written: what is there stays as it is."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        for name in files:
            place.file(name, b"mine")
        before = _content(place.folder)

        def check(done: Done) -> None:
            after = _content(done.folder)
            assert {name: content for name, content in after.items() if content} == before

        return Run(["a.mp4"], outputs, options, model, told=told, check=check)

    return make


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mask_shares(done: Done, folder: str = "masks") -> None:
    names = [f"a-{number:06d}.png" for number in range(COUNT)]
    masks = [_image(done.folder / folder / name) for name in names]
    assert [(mask == 2).mean() for mask in masks] == pytest.approx(SHARES, abs=0.04)
    record = json.loads((done.folder / folder / "masks.json").read_text())
    assert sorted(record["files"]) == names


def _overlay(done: Done, name: str) -> None:
    """The video has every frame; the whole of its last one is drawn in the class's colour."""
    capture = cv2.VideoCapture(str(done.folder / name))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    assert len(frames) == COUNT
    assert frames[-1].shape == (480, 640, 3)
    # Half white, half RGB (230, 60, 50), in a corner without the legend.
    assert frames[-1][400:, 500:].mean((0, 1)) == pytest.approx([152, 158, 242], abs=6)


def _last(done: Done, name: str = "last.png") -> None:
    image = _image(done.folder / name)
    assert image[400:, 500:].mean((0, 1)) == pytest.approx([152, 158, 242], abs=2)


def _colour(options: Sequence[str], left: Sequence[int], right: Sequence[int]) -> Make:
    """An image of a white and a black half with these colours (BGR) in its overlay."""

    def make(place: Place) -> Run:
        picture(place.folder / "a.png")

        def check(done: Done) -> None:
            image = _image(done.folder / "last.png")
            assert image[440, 100].tolist() == pytest.approx(list(left), abs=2)
            assert image[440, 540].tolist() == pytest.approx(list(right), abs=2)

        return Run(["a.png"], ["last.png"], options, check=check)

    return make


def _stdout(done: Done) -> None:
    found = [json.loads(line)["areas"]["bright"] for line in done.stdout.splitlines()]
    assert found == pytest.approx(SHARES, abs=0.04)


def _summary(done: Done) -> None:
    assert json.loads(done.stdout)["frames"] == COUNT
    assert len(lines(done)) == COUNT


def _each(folder: str, suffix: str) -> Callable[[Done], None]:
    def check(done: Done) -> None:
        names = sorted(path.name for path in (done.folder / folder).iterdir())
        assert names == [f"a-{number:06d}{suffix}" for number in range(COUNT)]
        assert _image(done.folder / folder / names[0]).shape == (480, 640, 3)

    return check


def _each_class(done: Done) -> None:
    """Each frame's bars name the class that most of it has."""
    _each("out", ".png")(done)
    assert [next(iter(line["top"])) for line in lines(done)][::8] == ["dark", "bright"]


def _link(place: Place) -> Run:
    """A link is followed: what it points to is replaced, and it stays a link."""
    video(place.folder / "a.mp4")
    for suffix in (".jsonl", ".mkv", ".png"):
        place.file(f"there/old{suffix}", b"old")
        (place.folder / f"new{suffix}").symlink_to(f"there/old{suffix}")
    (place.folder / "there/masks").mkdir()
    (place.folder / "masks").symlink_to("there/masks")

    def check(done: Done) -> None:
        assert all((done.folder / f"new{suffix}").is_symlink() for suffix in (".jsonl", ".mkv", ".png"))
        assert len(lines(done, "there/old.jsonl")) == COUNT
        assert len(videos.read(done.folder / "there/old.mkv")) == COUNT
        _last(done, "there/old.png")
        _mask_shares(done, "there/masks")
        assert (done.folder / "masks").is_symlink()

    return Run(["a.mp4"], ["new.jsonl", "new.mkv", "new.png", "masks/"], check=check)


def _link_to_nothing(place: Place) -> Run:
    video(place.folder / "a.mp4")
    (place.folder / "out.jsonl").symlink_to("there.jsonl")
    check = lambda done: len(lines(done, "there.jsonl")) == COUNT or pytest.fail("not followed")  # noqa: E731
    return Run(["a.mp4"], check=check)


def _older(place: Place) -> Run:
    """Masks of an earlier run are replaced, other files stay."""
    video(place.folder / "a.mp4")
    place.file("masks-of-mine/notes.txt", b"mine")

    def check(done: Done) -> None:
        _mask_shares(done)
        assert (done.folder / "masks-of-mine/notes.txt").read_bytes() == b"mine"

    return Run(["a.mp4"], ["masks/"], check=check, times=2)


def _full(output: str, limit: int = 3000) -> Make:
    """A file may have so many bytes, as on a disk without more space."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4", numbers=[n % COUNT for n in range(90)])
        return Run(["a.mp4"], [output], told="File too large|the disk is full", before=SMALL.format(limit))

    return make


@contextmanager
def _full_disk(place: Place) -> Iterator[Run]:
    disk = place.folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    video(place.folder / "a.mp4", numbers=[n % COUNT for n in range(90)])

    def check(done: Done) -> None:
        kept = [line for line in (disk / "a.jsonl").read_text().splitlines() if line.endswith("}")]
        assert 10 < len(kept) < 90
        assert len(lines(done)) == 90, "the other output goes on"

    told, warned = "disk/a.jsonl: could not write .No space left on device", "continuing without disk/a.jsonl"
    try:
        yield Run(["a.mp4"], ["disk/a.jsonl", "out.jsonl"], told=told, warned=warned, check=check)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _pipe(suffix: str) -> Make:
    """Nobody reads it: opening it would wait forever."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        os.mkfifo(place.folder / f"b{suffix}")
        return Run(["a.mp4"], [f"b{suffix}"], told=f"b{suffix}: could not write .it is a pipe, socket or device")

    return make


def _taken(scheme: str) -> Make:
    @contextmanager
    def make(place: Place) -> Iterator[Run]:
        pytest.importorskip({"http": "aiohttp", "metrics": "prometheus_client"}[scheme])
        video(place.folder / "a.mp4")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            uri = f"{scheme}://127.0.0.1:{other.getsockname()[1]}"
            yield Run(["a.mp4"], [uri], told=uri.rpartition(":")[2])

    return make


def _page(place: Place) -> Run:
    pytest.importorskip("aiohttp")
    video(place.folder / "a.mp4")
    outputs = ["out.jsonl", f"http://127.0.0.1:{free_port()}", f"metrics://127.0.0.1:{free_port()}"]
    return Run(["a.mp4"], outputs, shares=SHARES, warned="live page|http://127.0.0.1")


def _dated(done: Done) -> None:
    (name,) = (path.name for path in done.folder.iterdir() if path.suffix == ".jsonl")
    assert re.fullmatch(r"r-a-\d{8}T\d{6}Z\.jsonl", name)


def _several(place: Place) -> Run:
    """One file for each input."""
    for number in (1, 2):
        video(place.folder / f"v{number}.mp4")

    def check(done: Done) -> None:
        for number in (1, 2):
            found = lines(done, f"r-v{number}.jsonl")
            assert {line["source"] for line in found} == {f"v{number}.mp4"}
            assert len(found) == COUNT

    return Run(["v1.mp4", "v2.mp4"], ["r-{source}.jsonl"], check=check)


def _strange(name: str) -> Make:
    """An output of a name that a library could misread."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")

        def check(done: Done) -> None:
            assert (done.folder / f"{name}.mp4").stat().st_size
            assert len(lines(done, f"{name}.jsonl")) == COUNT
            _last(done, f"{name}.png")
            _mask_shares(done, name)

        return Run(["a.mp4"], [f"./{name}{suffix}" for suffix in (".mp4", ".jsonl", ".png", "/")], check=check)

    return make


def _most(done: Done) -> None:
    assert [line["areas"]["bright"] for line in lines(done)] == pytest.approx(SHARES[:3], abs=0.04)


def _still(place: Place) -> Run:
    video(place.folder / "a.mp4", numbers=[4] * 6)

    def check(done: Done) -> None:
        assert [line.get("repeated", False) for line in lines(done)] == [False] + [True] * 5

    return Run(["a.mp4"], options=["--skip-still", "0.01"], shares=[0.5] * 6, check=check)


def _smooth(place: Place) -> Run:
    """White, then black: at a weight of 0.4 a cell stays white until 0.6^n is below a half, at n = 2."""
    video(place.folder / "a.mp4", numbers=[8, 0, 0, 0])
    return Run(["a.mp4"], options=["--smooth", "0.4"], shares=[1, 1, 0, 0])


def _recorded(done: Done) -> None:
    names = sorted(path.name for path in (done.folder / "frames").iterdir())
    assert names[0] == "00000000.png"
    assert names[-1] == "calibration.txt"
    assert _image(done.folder / "frames/00000000.png").shape == (24, 32, 3)


def _one_file(place: Place) -> Run:
    """The graph alone explains itself."""
    video(place.folder / "a.mp4")
    return Run(["a.mp4"], model=str(place.models["seg"] / "model.onnx"), shares=SHARES)


def _bundle(place: Place) -> Run:
    place.file("bundle/bundle.json", b"{}")
    picture(place.folder / "a.png")
    return Run(["a.png"], model="bundle", told="got a bundle, .*aselect-export --model bundle")


def _damaged(place: Place) -> Run:
    for file in place.models["seg"].iterdir():
        place.file(f"model/{file.name}", file.read_bytes()[: -20 if file.suffix == ".onnx" else None])
    picture(place.folder / "a.png")
    return Run(["a.png"], model="model", told="model/model.onnx: got SHA-256 .*write the folder again")


def _no_model(model: str, told: str, content: bytes | None = None) -> Make:
    def make(place: Place) -> Run:
        picture(place.folder / "a.png")
        if content is not None:
            place.file(model, content)
        return Run(["a.png"], model=model, told=told)

    return make


def _display(place: Place) -> Run:
    picture(place.folder / "a.png")
    told = "expected one with windows; pip install opencv-python" if not cv2.currentUIFramework() else "got no screen"
    return Run(["a.png"], ["display://"], told=told, environment={"DISPLAY": "", "WAYLAND_DISPLAY": ""})


MINE = ["masks/masks.json"]
CASES: dict[str, Make] = {
    "lines on stdout": _written(["-"], _stdout),
    "lines and summary on stdout": _told(["-"], "got the output - with the summary as JSON", ["--json"]),
    "summary on stdout": _written(["out.jsonl"], _summary, ["--json"]),
    "mp4": _written(["b.mp4"], lambda done: _overlay(done, "b.mp4")),
    "mkv": _written(["b.mkv"], lambda done: _overlay(done, "b.mkv")),
    "last frame": _written(["last.png"], _last),
    "masks": _written(["masks/"], _mask_shares),
    "masks without a slash": _written(["masks"], _mask_shares),
    "an overlay of each": _written(["out/{name}.png"], _each("out", ".png")),
    "an overlay of each as jpg": _written(["out/{name}.jpg"], _each("out", ".jpg")),
    "an overlay of each, cls": _written(["out/{name}.png", "out.jsonl"], _each_class, model="cls"),
    "masks of cls": _told(["masks/"], "got a classification model, expected segmentation for masks", model="cls"),
    "new folders": _written(["deep/er/out.jsonl"], lambda done: lines(done, "deep/er/out.jsonl")),
    "links": _link,
    "link to nothing": _link_to_nothing,
    "masks twice": _older,
    "only a suffix": _told([".jsonl"], r"\.jsonl: got only a suffix, expected a name before it"),
    "only the suffix of a video": _told(["sub/.mp4"], r"sub/\.mp4: got only a suffix"),
    "folder with a suffix": _told(["there.mp4"], "there.mp4: is a folder, expected a file", files=["there.mp4/x"]),
    "foreign folder": _told(["masks/"], "exists and has no masks.json.*choose another path", files=["masks/cat.jpg"]),
    "foreign masks.json": _told(["masks/"], "got a masks.json of another kind", files=MINE),
    "file as a folder": _told(["x/"], "x: is a file, expected a new folder", files=["x"]),
    "file in the way": _told(["x/b.jsonl"], "x/b.jsonl: could not write .Not a directory", files=["x"]),
    "an output twice": _told(["b.mp4", "./b.mp4"], "got this path twice"),
    "output is the input": _told(["a.mp4"], "got the path of an input, expected another one"),
    "empty": _told([""], "got an empty word after -o, expected text"),
    "unknown suffix": _told(["b.avi"], r"b.avi: got the suffix '.avi', expected .mp4 or .mkv"),
    "csv": _told(["b.csv"], r"got the suffix '.csv', expected .*\.jsonl"),
    "upper case": _told(["B.MP4"], r"got the suffix '.MP4', expected .mp4"),
    "jpg without a name": _told(["b.jpg"], r"got the suffix '.jpg', expected .*\.png"),
    "unknown scheme": _told(["ftp://host/b.mp4"], "got the scheme ftp, expected"),
    "one slash": _told(["http:/127.0.0.1"], "got an address without ://"),
    "mqtt without a topic": _told(["mqtt://host"], "got no broker with a topic"),
    "page without a host": _told(["http://"], "got no address to serve the live page at"),
    "page with a path": _told(["http://127.0.0.1:1/x"], "got no address to serve the live page at"),
    "page for a host without a name": _told(["http://0.0.0.0:1?host="], "got no address to serve the live page at"),
    "page with an empty option": _told(["http://127.0.0.1:1?name="], "got no address to serve the live page at"),
    "metrics for a host without a name": _told(["metrics://0.0.0.0:1?host="], "got no address to serve metrics at"),
    "page at a foreign address": _told(["http://192.0.2.1:8080"], "192.0.2.1"),
    "page at a port that is taken": _taken("http"),
    "metrics at a port that is taken": _taken("metrics"),
    "page and metrics": _page,
    "no screen": _display,
    **{f"300 characters {end}": _told([LONG + end], "File name too long") for end in (".mp4", ".jsonl", ".png", "/")},
    **{f"no space, {name}": _full(name) for name in ("b.mp4", "b.mkv", "b.jsonl", "last.png", "{name}.png")},
    "no space, masks/": _full("masks/", 1000),
    "full disk": _full_disk,
    **{f"pipe {suffix}": _pipe(suffix) for suffix in (".jsonl", ".mp4", ".png")},
    "time and source": _written(["r-{source}-{time}.jsonl"], _dated),
    "a file for each source": _several,
    **{repr(name): _strange(name) for name in ("a b", "rtsp:x", "%d", "-x", "été", "caf\udce9", "a\nb", "100%", "a#b")},
    "opacity 1": _colour(["--opacity", "1"], (50, 60, 230), (200, 30, 20)),
    "opacity 0": _colour(["--opacity", "0"], (255, 255, 255), (0, 0, 0)),
    "opacity 0.25": _colour(["--opacity", "0.25"], (204, 206, 249), (50, 8, 5)),
    "clear": _colour(["--opacity", "1", "--clear", "dark"], (50, 60, 230), (0, 0, 0)),
    "clear both": _colour(["--clear", "dark", "--clear", "bright"], (255, 255, 255), (0, 0, 0)),
    "clear an unknown class": _told(
        ["last.png"], "unknown class 'sky' .*expected one of dark, middle", ["--clear", "sky"]
    ),
    "opacity without an overlay": _told(["a.jsonl"], "got opacity 0.7 with no overlay", ["--opacity", "0.7"]),
    "clear without an overlay": _told(
        ["masks/"], "got clear dark, bright with no overlay", ["--clear", "dark", "--clear", "bright"]
    ),
    "seconds without event videos": _told(["a.jsonl"], "got pre 3.0 with no folder.*--record-events", ["--pre", "3"]),
    "limit without event videos": _told(["a.jsonl"], "got keep gb 3.0 with no folder", ["--keep-gb", "3"]),
    "opacity 2": _told(["last.png"], "Invalid value for '--opacity'", ["--opacity", "2"]),
    "unknown option": _told(["last.png"], "No such option.*--colour", ["--colour", "red"]),
    "unknown device": _told(["last.png"], "Invalid value for '--device'", ["--device", "abacus"]),
    "device without hardware": _told(
        ["last.png"], "got the device cuda, expected an available one", ["--device", "cuda"]
    ),
    "decoder without hardware": _told(["last.png"], "got no hardware decoder.*--decode", ["--decode", "hardware"]),
    "no rules": _told(["last.png"], "none.toml", ["--rules", "none.toml", "--events", "e.jsonl"]),
    "events without rules": _told(["last.png"], "got a destination for events but no rules", ["--events", "e.jsonl"]),
    "three frames": _written(["out.jsonl"], _most, ["--max-frames", "3"]),
    "still scene": _still,
    "smooth": _smooth,
    "frames for INT8": _written(["out.jsonl"], _recorded, ["--record-calibration", "frames"]),
    "frames for INT8 in a foreign folder": _told(
        ["out.jsonl"], "exists and has no calibration.txt", ["--record-calibration", "f"], files=["f/cat.png"]
    ),
    "graph alone": _one_file,
    "bundle": _bundle,
    "damaged model": _damaged,
    "no model": _no_model("nowhere", "nowhere: no such model, expected an export folder"),
    "empty folder as model": _no_model(".", "got a folder without manifest.json, expected an export folder"),
    "text as model": _no_model("m.onnx", "m.onnx: ", b"hello"),
    "weights as model": _no_model("m.pt", r"got a .pt file, expected an export folder or a \.onnx file", b"x"),
}
