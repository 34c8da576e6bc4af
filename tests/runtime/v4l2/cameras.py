"""V4L2 cameras without a kernel module: a library that a process preloads makes /dev/videoN from files of a folder.

The library is C, built by the test (camera.c says what it does). Only the processes that get `environment` see the
cameras; they need no rights, and OpenCV and the runtime are as installed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from aselect_runtime.errors import GateError
from aselect_runtime.frames import Frame

SOURCES = ("camera.c", "paths.c")
HEIGHT, WIDTH, RATE = 480, 640, 30
IMAGES = 8
"""After which the camera begins again."""
COLOURS = ((200, 40, 40), (40, 180, 60), (50, 70, 210))
"""RGB of the quarters at the top left, at the top right and at the bottom left; the last is the number's grey."""
CENTRES = tuple((y, x) for y in (HEIGHT // 4, 3 * HEIGHT // 4) for x in (WIDTH // 4, 3 * WIDTH // 4))
DEVICE = "/dev/video9"
BY_ID = "/dev/v4l/by-id/usb-Test_Camera_0001-video-index0"


READ = """
import json, sys
from aselect_runtime.errors import InputError
from aselect_runtime.sources import open_source

shots, fault = [], ""
try:
    with open_source(sys.argv[1]) as source:
        for item in source:
            spots = [item.frame[y - 9 : y + 9, x - 9 : x + 9].mean((0, 1)) for y, x in json.loads(sys.argv[2])]
            shots.append([item.label, item.frame.shape, [list(spot) for spot in spots]])
except InputError as error:
    fault = str(error)
print(json.dumps([shots, fault, source.info.fps, source.info.live]))
"""
"""Reads a camera until it is lost, and prints what `Seen` has."""


@dataclass(frozen=True)
class Shot:
    """A frame as a process got it: its label, its shape and the colours (BGR) in the middle of its quarters."""

    label: str
    shape: list[int]
    spots: list[list[float]]

    @property
    def number(self) -> int:
        """Which of the images it shows."""
        return round((self.spots[-1][0] - grey(0)) / (grey(1) - grey(0)))


@dataclass(frozen=True)
class Seen:
    """What a process saw of a camera until it was lost, and how that was told."""

    shots: list[Shot]
    fault: str
    rate: float
    live: bool

    @property
    def lost(self) -> int:
        """Frames that are missing between those that came, by their numbers."""
        numbers = [shot.number for shot in self.shots]
        return sum((after - before - 1) % IMAGES for before, after in pairwise(numbers))


@dataclass(frozen=True)
class Camera:
    """A folder that stands for /dev, with a camera and its name from udev, and the library that shows them."""

    folder: Path
    library: Path

    @property
    def connected(self) -> bool:
        """Whether it is connected, under whichever device name."""
        return (self.folder / BY_ID[1:]).exists()

    @property
    def environment(self) -> dict[str, str]:
        """Of processes that are to see the camera."""
        return os.environ | {"LD_PRELOAD": str(self.library), "V4L2_CAMERA": str(self.folder)}

    def plug(self, frames: int = 0, device: str = DEVICE) -> None:
        """Connect it; a program that has got so many frames finds it unplugged. 0: never."""
        file, link, new = self.folder / device[1:], self.folder / BY_ID[1:], self.folder / "new"
        new.write_text(str(frames))
        new.replace(file)
        new.symlink_to(f"../../{file.name}")
        new.replace(link)

    def read(self, name: str = DEVICE) -> Seen:
        """What a process sees that opens `name` and reads until the camera is lost."""
        command = [sys.executable, "-c", READ, name, json.dumps(CENTRES)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise GateError(f"{name}: got {done.stderr.strip()[-300:]!r}, expected frames; run the code by itself")
        shots, fault, rate, live = json.loads(done.stdout)
        return Seen([Shot(*shot) for shot in shots], fault, rate, live)

    def starts(self) -> list[str]:
        """The format and the number of buffers of each start: `YUYV 4`."""
        return (self.folder / "log").read_text().splitlines()


def build(folder: Path) -> Path | None:
    """Compile the library; None without a C compiler for this machine and the kernel's headers."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=False).stdout
    if not target.startswith(platform.machine()):  # an emulated processor with its host's compiler
        return None
    probe = [compiler, "-E", "-include", "linux/videodev2.h", "-x", "c", "/dev/null"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return None
    library = folder / "camera.so"
    sources = [str(Path(__file__).parent / name) for name in SOURCES]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-pthread", "-o", str(library), *sources], check=True)
    return library


def camera(folder: Path, library: Path, *formats: str) -> Camera:
    """A camera that offers `formats` ("YUYV", "MJPG") and is not connected yet."""
    (folder / "dev" / "v4l" / "by-id").mkdir(parents=True)
    for form in formats:
        (folder / form).mkdir()
        for number in range(IMAGES):
            place = folder / form / f"{number:04d}"
            if form == "YUYV":
                place.write_bytes(yuyv(picture(number)))
            else:
                Image.fromarray(picture(number)).save(place, "JPEG", quality=95)
    return Camera(folder, library)


def picture(number: int) -> Frame:
    """Three coloured quarters and the number's grey, RGB uint8 [HEIGHT, WIDTH, 3]."""
    image = np.full((HEIGHT, WIDTH, 3), grey(number), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2], image[: HEIGHT // 2, WIDTH // 2 :] = COLOURS[:2]
    image[HEIGHT // 2 :, : WIDTH // 2] = COLOURS[2]
    return image


def grey(number: int) -> int:
    """The level that shows a number."""
    return 30 + 25 * number


def yuyv(image: Frame) -> bytes:
    """Y0 U Y1 V of each two pixels, by BT.601 for 16 to 235; the two have the colour of the left one."""
    r, g, b = np.moveaxis(image.astype(float), -1, 0)
    luma = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    blue = 128 + (-37.797 * r - 74.203 * g + 112 * b) / 255
    red = 128 + (112 * r - 93.786 * g - 18.214 * b) / 255
    packed = np.empty((*image.shape[:2], 2))
    packed[..., 0], packed[:, ::2, 1], packed[:, 1::2, 1] = luma, blue[:, ::2], red[:, ::2]
    return packed.round().astype(np.uint8).tobytes()
