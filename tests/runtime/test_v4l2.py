"""V4L2 cameras as OpenCV from PyPI reads them: formats, every frame, a lost camera, names from udev, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.v4l2 import cameras
from tests.runtime.v4l2.cameras import BY_ID, CENTRES, COLOURS, DEVICE, HEIGHT, IMAGES, RATE, WIDTH, Camera

READ = """
import json, sys
from aselect_runtime.errors import InputError
from aselect_runtime.sources import open_source

seen, fault = [], ""
try:
    with open_source(sys.argv[1]) as source:
        for item in source:
            spots = [item.frame[y - 9 : y + 9, x - 9 : x + 9].mean((0, 1)) for y, x in json.loads(sys.argv[2])]
            seen.append([item.index, item.label, item.frame.shape, [list(spot) for spot in spots]])
except InputError as error:
    fault = str(error)
print(json.dumps([seen, fault, source.info.fps, source.info.live]))
"""
"""Reads a camera until it is lost, and prints index, label, shape and the quarters' colours (BGR) of each frame."""
TWO = """
import sys
from aselect_runtime.sources import open_source

with open_source(sys.argv[1]) as first:
    next(iter(first))
    with open_source(sys.argv[1]):
        pass
"""
RUN = "from aselect_runtime.commands.run import run; run()"
DOCTOR = "from aselect_runtime.commands.doctor import doctor; doctor()"
FRAMES = 20
Plugged = Callable[..., Camera]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = cameras.build(tmp_path_factory.mktemp("v4l2"))
    if built is None:
        pytest.skip("no C compiler for this machine here (apt install gcc libc6-dev)")
    return built


@pytest.fixture
def plugged(library: Path, tmp_path: Path) -> Plugged:
    """`plugged("YUYV", "MJPG", frames=20)`: a camera that is unplugged after its frames."""

    def plug(*formats: str, frames: int = 0) -> Camera:
        camera = cameras.camera(tmp_path / "camera", library, *formats)
        camera.plug(frames)
        return camera

    return plug


def _python(camera: Camera, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=camera.environment, capture_output=True, text=True, timeout=120)


def _read(camera: Camera, name: str) -> tuple[list[Any], str, float, bool]:
    """Frames, fault, rate and whether it is live."""
    done = _python(camera, READ, name, json.dumps(CENTRES))
    assert done.returncode == 0, done.stderr
    seen, fault, rate, live = json.loads(done.stdout)
    return seen, fault, rate, live


@pytest.mark.parametrize(
    ("formats", "taken", "tolerance"),
    [
        (("YUYV",), "YUYV", 3),
        (("MJPG",), "MJPG", 6),
        (("MJPG", "YUYV"), "YUYV", 3),  # what needs no decoding, where a camera has both
    ],
)
def test_every_frame_of_a_camera_in_its_colours(
    plugged: Plugged, formats: tuple[str, ...], taken: str, tolerance: int
) -> None:
    camera = plugged(*formats, frames=FRAMES)
    seen, fault, rate, live = _read(camera, DEVICE)
    assert (rate, live) == (RATE, True)
    assert camera.starts() == [f"{taken} 2"]
    numbers = [round((spots[-1][0] - cameras.grey(0)) / 25) for *_, spots in seen]
    for number, (_, _, shape, spots) in zip(numbers, seen, strict=True):
        assert shape == [HEIGHT, WIDTH, 3]
        expected = [*(colour[::-1] for colour in COLOURS), (cameras.grey(number),) * 3]
        for spot, colour in zip(spots, expected, strict=True):
            assert spot == pytest.approx(colour, abs=tolerance)
    # OpenCV leaves out the first one, which is incomplete in some cameras; after it none is lost.
    assert all((after - before) % IMAGES == 1 for before, after in pairwise(numbers))
    assert (len(seen), numbers[-1]) == (FRAMES - 1, (FRAMES - 1) % IMAGES)
    assert fault == f"{DEVICE}: got no frame {FRAMES - 1}, expected a stream; check the cable"


@pytest.mark.parametrize(("name", "label"), [("9", "video9-000000"), (BY_ID, f"{Path(BY_ID).name}-000000")])
def test_a_camera_by_its_number_and_by_its_name_from_udev(plugged: Plugged, name: str, label: str) -> None:
    seen, *_ = _read(plugged("YUYV", frames=4), name)
    assert [len(seen), seen[0][1]] == [3, label]


def test_a_run_continues_when_the_camera_is_back(plugged: Plugged, seg_model: Path, tmp_path: Path) -> None:
    camera = plugged("YUYV", frames=FRAMES)
    lines = tmp_path / "lines.jsonl"
    arguments = [seg_model, DEVICE, "--device", "cpu", "-o", lines, "--max-frames", FRAMES + 10, "--json"]
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=camera.environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while camera.device.exists() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            assert not camera.device.exists()
            camera.plug()
            said, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, told
    summary = json.loads(said)
    (source,) = summary["sources"]
    assert (summary["frames"], summary["reconnects"], source["reconnects"]) == (FRAMES + 10, 1, 1)
    assert f"{DEVICE}: delivers frames again" in told
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(written) == FRAMES + 10
    assert camera.starts() == ["YUYV 2"] * 2


def test_a_camera_that_is_not_there_names_those_that_are(plugged: Plugged, seg_model: Path) -> None:
    done = _python(plugged("YUYV"), RUN, seg_model, "/dev/video8", "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: /dev/video8: no such camera, expected one of those present ({BY_ID}, {DEVICE}); plug it in\n"
    )


def test_a_camera_that_another_program_uses(plugged: Plugged) -> None:
    done = _python(plugged("YUYV"), TWO, DEVICE)
    assert f"InputError: {DEVICE}: got no stream, expected a free V4L2 camera; close other programs" in done.stderr


def test_the_doctor_lists_it(plugged: Plugged) -> None:
    done = _python(plugged("YUYV"), DOCTOR, "--json")
    assert json.loads(done.stdout)["facts"]["cameras"] == [{"path": DEVICE, "readable": True}]
