"""The device's wheel on a 64-bit ARM processor, emulated: `make test-arm`.

    python -m tests.proof.arm

Debian's own Python for arm64 runs under QEMU as a Cortex-A76. Neither Docker nor root is needed, and nothing is
registered with the kernel: the emulated interpreter is a script, which programs that start their own interpreter find
as sys.executable. What ran is compared with the same command on this machine.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tomllib

from aselect_runtime.engines.versions import version
from aselect_runtime.errors import GateError
from tests.proof.steps import (
    CONSTRAINTS,
    ROOT,
    STREET,
    Check,
    Seen,
    device_wheel,
    exported,
    found,
    passed,
    pip,
    prove,
    run,
)

SUITE, PYTHON = "bookworm", "3.11"
"""Debian's release and its Python, whose wheels are installed."""

PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_35_aarch64")
PACKAGES = ("onnx", "hypothesis", "pillow", "pytest", "pytest-xdist", "tensorrt-rtx")
"""What the tests need beside the device's own packages."""

CPUINFO = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""A Cortex-A76's: ONNX Runtime reads this file and crashes on that of another architecture."""

TARGET = "sm86"
FRAMES = 3
TESTS = "tests/runtime"
LEFT_OUT = ("test_run_command.py", "test_events.py", "engines/test_processes.py")
"""They start a process for each case, which takes seconds here; the commands are run above."""
TIMED = "test_event_videos.py::test_a_run_of_several_cameras_records_the_events_of_each"
"""It records cameras in real time, for which an emulated processor is too slow."""
AGREEMENT = {"fp32": 1.0, "fp16": 0.995, "int8": 0.99}
"""The least share of pixels with the class that this machine gives: where one float is rounded otherwise, INT8 may take
the next of 256 steps."""


Masks = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Start = Callable[..., str]
"""Runs one of the device's commands, here or emulated: (program, *arguments) -> standard output."""


@dataclass(frozen=True)
class Device:
    """An emulated device: `bin` holds its python and its commands."""

    folder: Path

    def run(self, program: str, *arguments: str | Path, limit_s: float = 600) -> str:
        """Standard output of one of its programs, which sees the installed wheel and not this repository."""
        return run([self.bin / program, *arguments], limit_s, PYTHONPATH="")

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def packages(self) -> Path:
        return self.folder / f"root/usr/local/lib/python{PYTHON}/dist-packages"


def main() -> None:
    """Run the proof."""
    prove("arm", steps)


def steps(place: Path) -> Seen:
    """Everything, in an empty folder."""
    device = build_device(place)
    checks = [doctor(device)]
    for precision in AGREEMENT:
        folder = exported(place / precision, precision)
        checks.append(same_answers(device, folder, precision))
        checks.append(same_engine(device, folder, precision))
    checks.append(tests(device))
    return Seen(versions(device), tuple(checks))


def build_device(place: Path) -> Device:
    """A root of arm64 with the device's wheel and its packages; raises MissingDependencyError, GateError."""
    qemu = found("qemu-aarch64-static", "apt install qemu-user-static")
    bootstrap = found("mmdebstrap", "apt install mmdebstrap debian-archive-keyring")
    device = Device(place)
    root = place / "root"
    run([bootstrap, "--variant=extract", "--arch=arm64", "--include=python3,libstdc++6", SUITE, root])
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    install(device, place / "wheels")
    write_programs(device, qemu)
    return device


def install(device: Device, wheels: Path) -> None:
    """The device's wheel, ONNX Runtime, TensorRT-RTX and what the tests need, in the versions of constraints.txt."""
    wheels.mkdir()
    wheel = device_wheel(wheels)
    shutil.rmtree(wheels / "source")
    rtx = version("rtx")
    # Two of TensorRT-RTX's packages are source distributions without code of any architecture.
    pip("wheel", "--no-deps", "--wheel-dir", wheels, f"tensorrt-rtx=={rtx}", f"tensorrt-rtx-cu13=={rtx}")
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    options = ["--only-binary=:all:", "--no-compile", "--python-version", PYTHON, *platforms, "-c", str(CONSTRAINTS)]
    wanted = (f"{wheel}[cpu,web,mqtt,metrics,record]", *PACKAGES)
    pip("install", "--target", device.packages, *options, "--find-links", wheels, *wanted)
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:  # bytecode is the same on every architecture
        run([sys.executable, "-m", "compileall", "-q", device.packages])


def write_programs(device: Device, qemu: str) -> None:
    """Scripts that emulate: the kernel of this machine can start a script, and not a program for ARM."""
    device.bin.mkdir()
    python = device.bin / "python"
    emulated = (
        f"QEMU_LD_PREFIX='{device.folder}/root' QEMU_CPU=cortex-a76 ASELECT_PYTHON='{python}' ORT_DISABLE_TELEMETRY=1"
    )
    script(python, f"{emulated} exec '{qemu}' '{device.folder}/root/usr/bin/python3' \"$@\"")
    line = "import os, sys; sys.executable = os.environ.get('ASELECT_PYTHON', sys.executable)\n"
    (device.packages / "emulated.pth").write_text(line)
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in project["scripts"]:
        script(device.bin / name, f"exec '{python}' '{device.packages}/bin/{name}' \"$@\"")


def script(path: Path, command: str) -> None:
    """An executable of one line of shell."""
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def doctor(device: Device) -> Check:
    """The doctor knows the machine and finds nothing that keeps models from running."""
    facts = json.loads(device.run("aselect-doctor", "--json"))["facts"]
    if facts["machine"] != "aarch64":
        raise GateError(f"aselect-doctor: got the machine {facts['machine']}, expected aarch64; look at QEMU's version")
    return Check("`aselect-doctor`", "names the machine aarch64 and no error")


def same_answers(device: Device, folder: Path, precision: str) -> Check:
    """Overlay video, JSON lines and masks of a street, beside this machine's."""
    here, there = (outputs(start, folder, name) for name, start in (("here", run_here), ("there", device.run)))
    differ, share = int((here != there).sum()), float((here == there).mean())
    told = f"{differ} of {here.size:,} pixels have another class than on {platform.machine()}"
    if share < AGREEMENT[precision]:
        wanted = f"{AGREEMENT[precision]:.1%} the same"
        raise GateError(f"{precision}: got {told}, expected {wanted}; compare the graphs' outputs node by node")
    return Check(f"`aselect-run`, {precision}: overlay video, JSON lines and masks of {FRAMES} frames", told)


def run_here(program: str, *arguments: str | Path) -> str:
    """Standard output of one of the device's commands on this machine."""
    name = program.removeprefix("aselect-")
    code = f"from aselect_runtime.commands.{name} import {name}; {name}()"
    return run([sys.executable, "-c", code, *arguments])


def outputs(start: Start, folder: Path, name: str) -> Masks:
    """Run a folder and read the masks, uint8 [N, H, W]; raises GateError unless every output has every frame."""
    out = folder.parent / f"{folder.name}-{name}"
    out.mkdir()
    sinks = [word for end in ("street.mp4", "street.jsonl", "masks/") for word in ("--output", f"{out}/{end}")]
    # With ONNX Runtime on both: here, --device auto may take OpenVINO's bfloat16.
    start("aselect-run", folder, STREET, "--device", "cpu", "--max-frames", str(FRAMES), *sinks)
    video = cv2.VideoCapture(str(out / "street.mp4"))
    frames = sum(1 for _ in iter(lambda: video.read()[0], False))
    lines = (out / "street.jsonl").read_text(encoding="utf-8").splitlines()
    images = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((out / "masks").rglob("*.png")))
    masks = [image for image in images if image is not None]
    if not frames == len(lines) == len(masks) == FRAMES:
        got = f"{frames} frames of video, {len(lines)} lines and {len(masks)} masks"
        raise GateError(f"{folder.name}, {name}: got {got}, expected {FRAMES} of each; look at the sinks")
    return np.stack(masks).astype(np.uint8)


def same_engine(device: Device, folder: Path, precision: str) -> Check:
    """TensorRT-RTX builds the same engine on both architectures, byte for byte."""
    engines = []
    for name, start in (("here", run_here), ("there", device.run)):
        copy = shutil.copytree(folder, folder.parent / f"{folder.name}-engine-{name}")
        start("aselect-build", copy, "--target", TARGET)
        (engine,) = (copy / "engines").glob(f"*-{TARGET}.engine")
        engines.append(engine.read_bytes())
    if engines[0] != engines[1]:
        sizes = " and ".join(f"{len(engine):,}" for engine in engines)
        raise GateError(f"{precision}: got two engines of {sizes} bytes, expected the same bytes; compare their layers")
    what = f"`aselect-build --target {TARGET}`, {precision}, with TensorRT-RTX"
    return Check(what, f"the same {len(engines[0]):,} bytes as on {platform.machine()}")


def tests(device: Device) -> Check:
    """The device's tests in the emulated Python, on the installed wheel; those that need torch are skipped."""
    left_out = [word for name in LEFT_OUT for word in ("--ignore", f"{TESTS}/{name}")]
    left_out += ["--deselect", f"{TESTS}/{TIMED}"]
    words = ("-m", "pytest", *left_out, "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", TESTS)
    counts = passed(device.run("python", *words, limit_s=1800), TESTS)
    return Check(f"`{TESTS}` without torch and without {', '.join((*LEFT_OUT, TIMED))}", counts)


def versions(device: Device) -> dict[str, str]:
    """What it was tried with."""
    code = (
        "import json, platform, numpy, onnxruntime, cv2, tensorrt_rtx; print(json.dumps({'Python': "
        "platform.python_version(), 'NumPy': numpy.__version__, 'ONNX Runtime': onnxruntime.__version__, "
        "'OpenCV': cv2.__version__, 'TensorRT-RTX': tensorrt_rtx.__version__}))"
    )
    qemu = run(["qemu-aarch64-static", "--version"]).split()[2]
    found_there: dict[str, str] = json.loads(device.run("python", "-c", code))
    return {"QEMU": qemu, "Debian": SUITE, **found_there}


if __name__ == "__main__":
    main()
