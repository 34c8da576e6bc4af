"""The device's wheel with the system's OpenCV and GStreamer, as JetPack has them: `make test-gstreamer`.

    python -m tests.proof.gstreamer

Debian's python3-opencv was built with GStreamer and for NumPy 1, like JetPack's. An environment that sees the system's
packages gets the wheel with its extra `jetson`, as docs/jetson.md installs it.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import av
import numpy as np

from aselect_runtime.errors import GateError, MissingDependencyError
from tests.proof.steps import Check, Seen, device_wheel, exported, passed, pip, prove, run
from tests.runtime.rtsp_server import free_port, interpreter, serving

SYSTEM = Path("/usr/bin/python3")
APT = (
    "apt install python3-opencv python3-venv python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
)
PACKAGES = ("onnx", "hypothesis", "pillow", "pytest")
"""What the tests need beside the device's own packages."""
TESTS = tuple(f"tests/runtime/test_{name}.py" for name in ("gstreamer", "decoding", "mjpeg", "sources", "video"))
ELEMENTS = ("avdec_h264", "h264parse", "rtspsrc", "jpegdec", "videotestsrc")
FRAMES = 50
BOTH = 250
"""Of two cameras: ten seconds, more than either takes to connect."""


def main() -> None:
    """Run the proof."""
    prove("gstreamer", steps)


def steps(place: Path) -> Seen:
    """Everything, in an empty folder."""
    ready()
    environment = place / "environment"
    run([SYSTEM, "-m", "venv", "--system-site-packages", environment])
    python = environment / "bin" / "python"
    pip("install", f"{device_wheel(place)}[jetson]", *PACKAGES, python=python)
    versions = versions_of(python)
    folder = exported(place / "exported", "fp32", "--no-ladder")
    checks = [
        pipeline(environment, folder),
        cameras(environment, folder, place),
        missing(environment, folder),
        tests(python),
    ]
    return Seen(versions, tuple(checks))


def ready() -> None:
    """Raise MissingDependencyError that names Debian's packages, unless all is here."""
    code = "import cv2; print(cv2.getBuildInformation())"
    build = subprocess.run([SYSTEM, "-c", code], capture_output=True, text=True, check=False).stdout
    if re.search(r"GStreamer:\s+YES", build) is None or interpreter() is None:
        raise MissingDependencyError(f"got no OpenCV with GStreamer or no RTSP server here, expected both; {APT}")


def versions_of(python: Path) -> dict[str, str]:
    """What it is tried with; raises GateError where pip's OpenCV or NumPy 2 hides the system's."""
    code = (
        "import json, platform, re, numpy, cv2, av; build = cv2.getBuildInformation(); print(json.dumps({"
        "'Python': platform.python_version(), 'NumPy': numpy.__version__, 'OpenCV': cv2.__version__, "
        "'GStreamer': re.search(r'GStreamer:\\s+YES \\((.*?)\\)', build)[1], 'PyAV': av.__version__}))"
    )
    found: dict[str, str] = json.loads(run([python, "-c", code], PYTHONPATH=""))
    if not found["NumPy"].startswith("1."):
        raise GateError(f"got NumPy {found['NumPy']}, expected 1 beside the system's OpenCV; look at the extra jetson")
    return found


def summary(environment: Path, folder: Path, *inputs: str, options: tuple[str, ...] = ()) -> dict[str, int]:
    """What aselect-run counted."""
    command: list[str | Path] = [environment / "bin" / "aselect-run", folder, *inputs, *options]
    command += ["--device", "cpu", "--json"]
    said = run(command, PYTHONPATH="")
    counted: dict[str, int] = json.loads(said)
    return counted


def pipeline(environment: Path, folder: Path) -> Check:
    """A finite pipeline is a finished video of all its frames."""
    text = f"videotestsrc num-buffers={FRAMES} pattern=ball ! video/x-raw,width=128,height=96 ! videoconvert ! appsink"
    seen = summary(environment, folder, text)
    if (seen["frames"], seen["reconnects"], seen["dropped"]) != (FRAMES, 0, 0):
        raise GateError(
            f"{text}: got {seen['frames']} frames, expected {FRAMES} and no reconnect; look at the pipeline"
        )
    return Check("`videotestsrc num-buffers=50 ! … ! appsink`", f"{FRAMES} frames, then its end, no reconnect")


def cameras(environment: Path, folder: Path, place: Path) -> Check:
    """Two H.264 streams side by side: through a pipeline of the user's, and as rtsp://."""
    video = place / "video.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 25  # a camera's: who comes later waits for the next key frame
        for number in range(1500):
            image = np.full((96, 128, 3), 40 + number % 150, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    port = free_port()
    with serving(port, video):
        address = f"rtsp://127.0.0.1:{port}/live"
        text = f"rtspsrc location={address} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264"
        lines = place / "{source}.jsonl"
        options = ("--output", str(lines), "--max-frames", str(BOTH))
        summary(environment, folder, f"{text} ! videoconvert", address, options=options)
    counts = {path.stem: len(path.read_text().splitlines()) for path in place.glob("*.jsonl")}
    if sum(counts.values()) != BOTH or len(counts) != 2 or not all(counts.values()):
        raise GateError(f"got lines {counts} of two cameras, expected {BOTH} of both together; look at the two streams")
    return Check("`rtspsrc … avdec_h264` and `rtsp://` of H.264, side by side", f"{BOTH} frames, of both cameras")


def missing(environment: Path, folder: Path) -> Check:
    """A csi:// camera on a machine that has none says what to install."""
    command = [str(environment / "bin" / "aselect-run"), str(folder), "csi://0", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 1 or "nvarguscamerasrc" not in done.stderr or "install nvidia-l4t" not in done.stderr:
        raise GateError(f"csi://0: got {done.stderr.strip()!r}, expected an error that names its element; look there")
    return Check("`csi://0` on a machine without that camera", "names nvarguscamerasrc and its package")


def tests(python: Path) -> Check:
    """The tests of sources, with the system's OpenCV."""
    command: list[str | Path] = [python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    counts = passed(run(command, PYTHONPATH=""), TESTS[0])
    return Check(", ".join(f"`{name}`" for name in TESTS), counts)


if __name__ == "__main__":
    main()
