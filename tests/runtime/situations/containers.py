"""Containers, codecs and image formats."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.runtime import videos
from tests.runtime.situations.case import Make, Place, Run, lines
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import (
    COUNT,
    FPS,
    HEIGHT,
    SHARES,
    WIDTH,
    encoded,
    jpeg_that_says,
    of_jpegs,
    picture,
    scene,
    video,
)

CODECS: Mapping[str, tuple[str, str, str | None]] = MappingProxyType(
    {
        ".mp4": ("mpeg4", "yuv420p", None),
        ".mov": ("mjpeg", "yuvj420p", None),
        ".m4v": ("mpeg4", "yuv420p", "mp4"),
        ".mkv": ("libx264", "yuv420p", None),
        ".webm": ("libvpx-vp9", "yuv420p", None),
        ".avi": ("mpeg4", "yuv420p", None),
        ".mpg": ("mpeg1video", "yuv420p", None),
        ".mpeg": ("mpeg2video", "yuv420p", None),
        ".ts": ("libx264", "yuv420p", None),
        ".m2ts": ("mpeg2video", "yuv420p", "mpegts"),
        ".mts": ("libx264", "yuv420p", "mpegts"),
        ".flv": ("libx264", "yuv420p", None),
        ".wmv": ("wmv2", "yuv420p", "asf"),
        ".3gp": ("mpeg4", "yuv420p", None),
        ".h264": ("libx264", "yuv420p", None),
        ".264": ("libx264", "yuv420p", "h264"),
        ".h265": ("libx265", "yuv420p", "hevc"),
        ".hevc": ("libx265", "yuv420p", None),
        ".gif": ("gif", "rgb8", None),
        ".ogv": ("libtheora", "yuv420p", None),
        ".vob": ("mpeg2video", "yuv420p", None),
    }
)
MORE: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "H.265 in mp4": ("a.mp4", "libx265", "yuv420p"),
        "VP8 in webm": ("a.webm", "libvpx", "yuv420p"),
        "10 bits": ("a.mkv", "libx265", "yuv420p10le"),
        "4:4:4": ("a.mp4", "libx264", "yuv444p"),
        "grey": ("a.mkv", "ffv1", "gray"),
        "lossless RGB": ("a.avi", "rawvideo", "bgr24"),
        "MJPEG in avi": ("a.avi", "mjpeg", "yuvj420p"),
        "with alpha": ("a.mov", "png", "rgba"),
        "ProRes": ("a.mov", "prores", "yuv422p10le"),
        "upper case": ("A.MP4", "mpeg4", "yuv420p"),
    }
)


def _timed(done: Done) -> None:
    assert [line["position"] for line in lines(done)] == pytest.approx([n / FPS for n in range(COUNT)], abs=0.005)


def _format(suffix: str) -> Make:
    def make(place: Place) -> Run:
        codec, pixels, form = CODECS[suffix]
        video(place.folder / f"a{suffix}", codec, pixels, form)
        warned = "container states about" if suffix == ".flv" else ""  # from its duration; so short a video is rounded
        return Run([f"a{suffix}"], shares=SHARES, check=_timed, may_warn=warned)

    return make


def _codec(name: str, codec: str, pixels: str) -> Make:
    def make(place: Place) -> Run:
        video(place.folder / name, codec, pixels)
        return Run([name], shares=SHARES, check=_timed)

    return make


def _recorded(name: str) -> Make:
    """A healthy video whose container promises other frames than it shows: grey, so all of it is of one class."""

    def make(place: Place) -> Run:
        write, numbers = videos.KINDS[name]
        write(place.folder / name)
        greys = [30 + 4 * number for number in numbers]
        times = videos.times(name)

        def check(done: Done) -> None:
            results = lines(done)
            assert [line["position"] for line in results] == pytest.approx(times, abs=0.005)
            dark = [line["areas"]["dark"] for line in results]
            clear = [at for at, grey in enumerate(greys) if abs(grey - 64) > 5]  # codecs lose some levels
            assert [dark[at] for at in clear] == [float(greys[at] < 64) for at in clear]

        return Run([name], check=check, may_warn="container states about .*the frames were used")

    return make


def _turned(degrees: int) -> Make:
    """A telephone's video: the matrix of its track says how it is to be shown."""

    def make(place: Place) -> Run:
        path = video(place.folder / "a.mp4")
        content = bytearray(path.read_bytes())
        at = content.index(b"tkhd") + 4 + 40
        one = 1 << 16
        turn = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
        content[at : at + 36] = struct.pack(">9i", turn[0], turn[1], 0, turn[2], turn[3], 0, 0, 0, 1 << 30)
        path.write_bytes(content)

        def check(done: Done) -> None:
            mask = cv2.imread(str(done.folder / "masks/a-000002.png"), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            assert mask.shape == ((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT))
            white = mask == 2
            side = {90: white[:16], 180: white[:, 48:], 270: white[48:]}[degrees]  # where its left quarter is now
            assert side.mean() > 0.9

        return Run(["a.mp4"], ("out.jsonl", "masks/"), shares=SHARES, check=check)

    return make


def _bytes(name: str, content: bytes, told: str) -> Make:
    def make(place: Place) -> Run:
        place.file(name, content)
        return Run([name], told=told, check=_left_nothing)

    return make


def _left_nothing(done: Done) -> None:
    assert not (done.folder / "out.jsonl").exists() or not (done.folder / "out.jsonl").read_bytes()


def _cut(suffix: str, keep: float, told: str) -> Make:
    """What was decoded before the cut is kept, and the line says what is missing."""

    def make(place: Place) -> Run:
        numbers = list(range(COUNT)) * 10
        path = video(place.folder / f"a{suffix}", "mjpeg", "yuvj420p", numbers=numbers)
        left = path.read_bytes()[: int(path.stat().st_size * keep)]
        path.write_bytes(left)
        whole = left.count(b"\xff\xd8\xff") - 1  # JPEG images, of which the last is cut

        def check(done: Done) -> None:
            found = [line["areas"]["bright"] for line in lines(done)]
            assert len(found) == pytest.approx(whole, abs=2)
            assert found == pytest.approx([number / 8 for number in numbers[: len(found)]], abs=0.04)

        return Run([f"a{suffix}"], told=told, check=check)

    return make


def _damaged(place: Place) -> Run:
    """One image's bytes are zeros: it is left out or grey, the others are right."""
    path = video(place.folder / "a.avi", "mjpeg", "yuvj420p")
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == COUNT
    content[starts[5] : starts[6] - 16] = bytes(starts[6] - 16 - starts[5])
    path.write_bytes(content)

    def check(done: Done) -> None:
        found = [line["areas"]["bright"] for line in lines(done)]
        assert found[:5] == pytest.approx(SHARES[:5], abs=0.04)
        assert found[-3:] == pytest.approx(SHARES[6:], abs=0.04)

    return Run(["a.avi"], check=check, warned="container states about")


def _one_picture(suffix: str) -> Make:
    def make(place: Place) -> Run:
        picture(place.folder / f"a{suffix}")
        return Run([f"a{suffix}"], shares=[0.5], check=_named(f"a{suffix}"))

    return make


def _named(name: str) -> Callable[[Done], None]:
    def check(done: Done) -> None:
        (line,) = lines(done)
        assert line["file"] == name
        assert "position" not in line

    return check


def _pixels(name: str, image: object, share: float = 0.5) -> Make:
    def make(place: Place) -> Run:
        place.file(name, encoded(Path(name).suffix, image))
        return Run([name], shares=[share])

    return make


def _other_name(of: str, given: str) -> Make:
    """A file whose suffix is not that of its format."""

    def make(place: Place) -> Run:
        path = place.folder / of
        (picture if path.suffix in {".png", ".jpg"} else video)(path)
        path.rename(place.folder / given)
        return Run([given], shares=[0.5] if path.suffix in {".png", ".jpg"} else SHARES)

    return make


def _huge(kind: str) -> Make:
    def make(place: Place) -> Run:
        path = place.folder / "a.mkv"
        side = 30000 if "30000" in kind else 8200
        image = jpeg_that_says(side, side) if side == 30000 else encoded(".jpg", np.zeros((side, side), np.uint8))
        of_jpegs(path, [image] * 2, (side, side) if kind == "declared" else (HEIGHT, WIDTH))
        return Run([path.name], told=f"got images of {side}x{side}, expected at most 64 megapixels; reduce their size")

    return make


def _said_to_be_huge(place: Place) -> Run:
    """The container says 30000x30000, the images are small: they are what counts."""
    path = video(place.folder / "a.mp4")
    content = bytearray(path.read_bytes())
    at = content.index(b"mp4v") + 4 + 24
    assert content[at : at + 4] == struct.pack(">HH", WIDTH, HEIGHT)
    content[at : at + 4] = struct.pack(">HH", 30000, 30000)
    path.write_bytes(content)
    return Run([path.name], shares=SHARES)


def _fragmented(place: Place) -> Run:
    video(place.folder / "a.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    return Run(["a.mp4"], shares=SHARES)


def _two_sizes(place: Place) -> Run:
    """A transport stream in which another follows, as recorders join them; the results are of each as it is."""
    parts = [
        video(place.folder / "b.ts", "libx264", numbers=range(4)),
        video(place.folder / "c.ts", "libx264", numbers=range(4, COUNT), size=(96, 128)),
    ]
    place.file("a.ts", b"".join(part.read_bytes() for part in parts))
    return Run(["a.ts"], ("out.jsonl", "b.mp4"), shares=SHARES, may_warn="container states about")


def _one_frame(place: Place) -> Run:
    video(place.folder / "a.mp4", numbers=[2])
    return Run(["a.mp4"], shares=[0.25])


def _odd_size(place: Place) -> Run:
    video(place.folder / "a.mkv", "ffv1", "bgr0", size=(47, 63))
    shares = [number * 63 // 8 / 63 for number in range(COUNT)]
    return Run(["a.mkv"], shares=shares)


def _sound_alone(place: Place) -> Run:
    path = place.folder / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return Run(["a.mkv"], told="expected a video", check=_left_nothing)


def _animation(name: str, codec: str, form: str) -> Make:
    """An animated image: as an image it is its first frame."""

    def make(place: Place) -> Run:
        video(place.folder / name, codec, "rgb24" if codec == "apng" else "bgra", form, numbers=[2, 4, 6])
        return Run([name], shares=[0.25])

    return make


def _exif(place: Place) -> Run:
    """A telephone's photo that is to be turned by a quarter: its white left half is then above."""
    jpeg = encoded(".jpg", scene(4))
    tags = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    part = b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags
    place.file("a.jpg", jpeg[:2] + part + jpeg[2:])

    def check(done: Done) -> None:
        mask = cv2.imread(str(done.folder / "masks/a.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.shape == (WIDTH, HEIGHT)
        assert (mask[:24] == 2).all()
        assert (mask[40:] == 0).all()

    return Run(["a.jpg"], ("out.jsonl", "masks/"), shares=[0.5], check=check)


def _saved(name: str, mode: str, **options: Any) -> Make:
    """An image of that mode, as other programs write it."""

    def make(place: Place) -> Run:
        whole = Image.fromarray(scene(4)).convert("L" if mode in {"1", "P"} else "RGB")
        whole.convert(mode).save(place.folder / name, **options)
        return Run([name], shares=[0.5])

    return make


def _half(suffix: str, told: str) -> Make:
    """Half of an image's bytes: what is missing would be grey or black, and be taken for a scene."""

    def make(place: Place) -> Run:
        noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
        content = encoded(suffix, noise)
        place.file(f"a{suffix}", content[: len(content) // 2])
        return Run([f"a{suffix}"], told=told)

    return make


def _half_of_many(place: Place) -> Run:
    content = encoded(".jpg", scene(4, 480, 640))
    place.file("in/a.jpg", content)
    place.file("in/b.jpg", content[: len(content) // 2])
    return Run(["in"], shares=[0.5], warned="skipped: in/b.jpg: ")


def _slow_gif(place: Place) -> Run:
    """Each image has its own duration, in hundredths of a second."""
    images = [Image.fromarray(scene(number)) for number in (2, 4, 6)]
    images[0].save(place.folder / "a.gif", save_all=True, append_images=images[1:], duration=[500, 100, 200])

    def check(done: Done) -> None:
        assert [line["position"] for line in lines(done)] == pytest.approx([0, 0.5, 0.6], abs=0.01)

    return Run(["a.gif"], shares=[0.25, 0.5, 0.75], check=check)


def _other_model(model: str, *options: str) -> Make:
    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        return Run(["a.mp4"], model=model, options=options, shares=SHARES)

    return make


def _scores(place: Place) -> Run:
    """The mean over the image decides: at n eighths of white, the scores of dark and bright."""
    video(place.folder / "a.mp4")

    def check(done: Done) -> None:
        best = [next(iter(line["top"])) for line in lines(done)]
        assert best == [_nearest(number) for number in range(COUNT)]

    return Run(["a.mp4"], model="cls", check=check)


def _nearest(number: int) -> str:
    """The class with the least mean distance of its grey to n eighths of 255 and the rest of 0."""
    white = number / 8
    distances = {"dark": 255 * white, "middle": 128 * (1 - white) + 127 * white, "bright": 255 * (1 - white)}
    return min(distances, key=lambda name: distances[name])


ALPHA = np.dstack([scene(4), np.full((HEIGHT, WIDTH), 128, np.uint8)])
CASES: dict[str, Make] = {
    **{suffix: _format(suffix) for suffix in CODECS},
    **{name: _codec(*parts) for name, parts in MORE.items()},
    **{name: _recorded(name) for name in videos.KINDS if name != "gap-with-audio.mkv"},
    **{f"turned by {degrees} degrees": _turned(degrees) for degrees in (90, 180, 270)},
    "fragmented mp4": _fragmented,
    "one frame": _one_frame,
    "size that changes": _two_sizes,
    "odd size": _odd_size,
    "cut avi": _cut(".avi", 0.5, "got \\d+ frames and the end of the file.*copy it again"),
    "cut mkv": _cut(".mkv", 0.5, "got \\d+ frames and the end of the file.*copy it again"),
    "cut mov": _bytes("a.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\1\0\0mdat" + bytes(500), "truncated, copy it again"),
    "damaged in the middle": _damaged,
    "empty video": _bytes("a.mp4", b"", "got 0 bytes that cannot be opened"),
    "text as video": _bytes("a.mkv", b"hello\n" * 20, "got 120 bytes that cannot be opened, expected a video"),
    "zeros as video": _bytes("a.avi", bytes(9000), "expected a video"),
    "sound alone": _sound_alone,
    **{f"image {suffix}": _one_picture(suffix) for suffix in (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif")},
    **{f"image {suffix}": _one_picture(suffix) for suffix in (".tiff", ".avif", ".PNG")},
    "image of 16 bits": _pixels("a.png", scene(4).astype(np.uint16) * 257),
    "grey image": _pixels("a.png", scene(4)[..., 0]),
    "image with alpha": _pixels("a.png", ALPHA),
    "image of one pixel": _pixels("a.png", np.full((1, 1, 3), 255, np.uint8), 1.0),
    "narrow image": _pixels("a.png", np.full((2000, 1, 3), 255, np.uint8), 1.0),
    "image of a telephone": _exif,
    "image of a palette": _saved("a.png", "P"),
    "image of one bit": _saved("a.png", "1"),
    "grey with alpha": _saved("a.png", "LA"),
    "CMYK": _saved("a.jpg", "CMYK"),
    "progressive jpg": _saved("a.jpg", "RGB", progressive=True),
    "compressed tif": _saved("a.tif", "RGB", compression="tiff_lzw"),
    "lossless webp": _saved("a.webp", "RGB", lossless=True),
    "half a jpg": _half(".jpg", "a.jpg: got \\d+ bytes that do not decode .the end is missing.*copy it again"),
    "half a png": _half(".png", "a.png: got \\d+ bytes that do not decode .the end is missing.*copy it again"),
    "half a webp": _half(".webp", "a.webp: .*expected an image"),
    "half a tif": _half(".tif", "a.tif: .*expected an image"),
    "half a bmp": _half(".bmp", "a.bmp: .*expected an image"),
    "half a jpg of many": _half_of_many,
    "gif of several durations": _slow_gif,
    "batches of 4": _other_model("batch"),
    "batches of 4, smooth": _other_model("batch", "--smooth", "1"),
    "letterbox": _other_model("letterbox"),
    "classes": _scores,
    "animated png": _animation("a.png", "apng", "apng"),
    "animated webp": _animation("a.webp", "libwebp_anim", "webp"),
    "empty image": _bytes("a.png", b"", "got 0 bytes that do not decode, expected an image"),
    "text as image": _bytes("a.jpg", b"hello", "got 5 bytes that do not decode, expected an image"),
    "cut image": _bytes("a.png", encoded(".png", scene(4))[:60], "got 60 bytes that do not decode .the end is missing"),
    "heic": _bytes("a.heic", b"\0\0\0\x18ftypheic", "heif-convert a.heic a.jpg"),
    "heic named jpg": _bytes("a.jpg", b"\0\0\0\x18ftypheic" + bytes(90), "it is HEIC.*convert it"),
    "raw photo": _bytes("a.dng", b"II*\0", r"got the suffix '\.dng', expected a video file"),
    "pdf": _bytes("a.pdf", b"%PDF", r"got the suffix '\.pdf'"),
    "sound file": _bytes("a.mp3", b"ID3", r"got the suffix '\.mp3'"),
    "no suffix": _bytes("video", b"", "got the suffix ''"),
    "png named jpg": _other_name("a.png", "b.jpg"),
    "jpg named png": _other_name("a.jpg", "b.png"),
    "mkv named mp4": _other_name("a.mkv", "b.mp4"),
    "mp4 named avi": _other_name("a.mp4", "b.avi"),
    "png named mp4": _other_name("a.png", "b.mp4"),
    "mp4 named png": _bytes("a.png", b"\0\0\0\x18ftypisom", "do not decode, expected an image"),
    **{f"huge, {kind}": _huge(kind) for kind in ("declared", "in the image alone", "30000, in the image alone")},
    "huge, in the container alone": _said_to_be_huge,
}
