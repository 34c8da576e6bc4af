"""V4L2 cameras as OpenCV from PyPI reads them: formats, every frame, a lost camera, names from udev, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.v4l2 import cameras
from tests.runtime.v4l2.cameras import BY_ID, COLOURS, DEVICE, HEIGHT, IMAGES, RATE, WIDTH, Camera

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
    seen = camera.read()
    assert (seen.rate, seen.live) == (RATE, True)
    assert camera.starts() == [f"{taken} 2"]
    numbers = [shot.number for shot in seen.shots]
    for shot in seen.shots:
        assert shot.shape == [HEIGHT, WIDTH, 3]
        expected = [*(colour[::-1] for colour in COLOURS), (cameras.grey(shot.number),) * 3]
        for spot, colour in zip(shot.spots, expected, strict=True):
            assert spot == pytest.approx(colour, abs=tolerance)
    # OpenCV leaves out the first one, which is incomplete in some cameras; after it none is lost.
    assert seen.lost == 0
    assert (len(numbers), numbers[-1]) == (FRAMES - 1, (FRAMES - 1) % IMAGES)
    assert seen.fault == f"{DEVICE}: got no frame {FRAMES - 1}, expected a stream; check the cable"


@pytest.mark.parametrize(("name", "label"), [("9", "video9-000000"), (BY_ID, f"{Path(BY_ID).name}-000000")])
def test_a_camera_by_its_number_and_by_its_name_from_udev(plugged: Plugged, name: str, label: str) -> None:
    shots = plugged("YUYV", frames=4).read(name).shots
    assert [len(shots), shots[0].label] == [3, label]


@pytest.mark.parametrize(("name", "next_device"), [(DEVICE, DEVICE), (BY_ID, "/dev/video7")])
def test_a_run_continues_when_the_camera_is_back(
    plugged: Plugged, seg_model: Path, tmp_path: Path, name: str, next_device: str
) -> None:
    """Its name from udev holds also where the kernel gives it another number."""
    camera = plugged("YUYV", frames=FRAMES)
    lines = tmp_path / "lines.jsonl"
    arguments = [seg_model, name, "--device", "cpu", "-o", lines, "--max-frames", FRAMES + 10, "--json"]
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=camera.environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while camera.connected and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            assert not camera.connected
            camera.plug(device=next_device)
            said, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, told
    summary = json.loads(said)
    (source,) = summary["sources"]
    assert (summary["frames"], summary["reconnects"], source["reconnects"]) == (FRAMES + 10, 1, 1)
    assert f"{name}: delivers frames again" in told
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
