"""The doctor: every judgement on facts of real machines, and the real command on this one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from aselect_runtime.doctor import Facts, Finding, examine, probe
from aselect_runtime.doctor.facts import Camera, Import, parse_build, parse_power_mode, parse_tegra_release
from aselect_runtime.engines.gpu import Gpu

# First lines of /etc/nv_tegra_release as devices print them.
JETPACK_4 = (
    "# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t186ref, EABI: aarch64, DATE: Mon Jul 26 19:36:31 UTC 2021"
)
JETPACK_5 = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023"
)
JETPACK_6 = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
    "\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia"
)
JETPACK_7 = (
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025"
    "\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia"
)
GSTREAMER = """
  Video I/O:
    DC1394:                      NO
    FFMPEG:                      YES
      avcodec:                   YES (58.134.100)
    GStreamer:                   YES (1.20.3)
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
ORIN = Facts(
    python=(3, 10),
    machine="aarch64",
    packages={"cuda-bindings": "12.9.4", "onnxruntime": "1.22.0"},
    opencv=Import(version="4.8.0"),
    opencv_build=GSTREAMER,
    gstreamer=True,
    decoding=None,
    onnxruntime=Import(version="1.22.0"),
    tensorrt=Import(version="10.13.0.35"),
    gpu=Gpu("Orin", "sm87"),
    driver_cuda=(12, 6),
    tegra_release=JETPACK_6,
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    power_mode="NV Power Mode: MAXN\n0\n",
    encoder=True,
    cameras=(Camera("/dev/video0", True),),
    memory_mib=12000,
    disk_mib=50000,
)
ORIN_7 = replace(
    ORIN,
    python=(3, 12),
    packages={"cuda-bindings": "13.2.0", "onnxruntime": "1.28.0", "numpy": "1.26.4"},
    opencv=Import(version="5.0.0"),
    tensorrt=Import(version="10.16.2.10"),
    driver_cuda=(13, 2),
    tegra_release="# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Wed Jun 10 2026",
)
"""As others report JetPack 7.2 on an Orin NX: Ubuntu 24.04, CUDA 13.2.1, TensorRT 10.16.2.10, OpenCV 5.0.0."""
LAPTOP = replace(
    ORIN,
    machine="x86_64",
    packages={"onnxruntime": "1.22.0", "opencv-python-headless": "4.12.0"},
    tensorrt=Import(),
    gpu=None,
    driver_cuda=None,
    tegra_release=None,
    model=None,
    power_mode=None,
    encoder=None,
)


def told(facts: Facts, check: str) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.check == check]


@pytest.mark.parametrize("facts", [ORIN, ORIN_7, LAPTOP], ids=["orin", "orin jetpack 7.2", "laptop"])
def test_a_healthy_machine_has_no_findings(facts: Facts) -> None:
    assert [finding for finding in examine(facts) if finding.level in ("warn", "error")] == []


@pytest.mark.parametrize(
    ("text", "release", "jetpack"),
    [
        (JETPACK_4, "32.6.1", 4),
        (JETPACK_5, "35.4.1", 5),
        (JETPACK_6, "36.4.3", 6),
        (JETPACK_7, "38.2.0", 7),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
    ],
)
def test_jetson_releases(text: str, release: str, jetpack: int | None) -> None:
    found = parse_tegra_release(text)
    assert found is not None
    assert (found.release, found.jetpack) == (release, jetpack)


@pytest.mark.parametrize("text", ["", "# KERNEL_VARIANT: oot", "R36", "# R (release), REVISION: x"])
def test_what_is_no_jetson_release(text: str) -> None:
    assert parse_tegra_release(text) is None


def test_opencv_and_nvpmodel_are_read() -> None:
    assert parse_build(GSTREAMER, "GStreamer")
    assert parse_build(GSTREAMER, "v4l/v4l2")
    assert not parse_build(GSTREAMER.replace("YES (1.20.3)", "NO"), "GStreamer")
    assert not parse_build("", "FFMPEG")
    assert parse_power_mode("NV Power Mode: 15W\n0\n") == ("15W", 0)
    assert parse_power_mode("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2") == ("MODE_30W", 2)
    assert parse_power_mode("nothing")[0] == "unknown"


CASES = {
    "old python": (replace(ORIN, python=(3, 8)), "python", "error", "3.10"),
    "new python": (replace(ORIN, python=(3, 15)), "python", "note", "not tested"),
    "jetpack 5": (replace(ORIN, tegra_release=JETPACK_5), "jetpack", "error", "JetPack 5"),
    "jetpack 7": (replace(ORIN, tegra_release=JETPACK_7), "jetpack", "ok", "JetPack 7 (Jetson Linux 38.2.0)"),
    "unknown jetson": (replace(ORIN, tegra_release="# R99 (release), REVISION: 1.0"), "jetpack", "warn", "99.1.0"),
    "unreadable release": (replace(ORIN, tegra_release="?"), "jetpack", "warn", "unknown format"),
    "jetson without gpu": (replace(ORIN, gpu=None, driver_cuda=None), "driver", "error", "--runtime nvidia"),
    "driver without gpu": (replace(LAPTOP, driver_cuda=(13, 0)), "driver", "warn", "--gpus all"),
    "bad tensorrt": (replace(ORIN, tensorrt=Import(version="10.3.0")), "tensorrt", "warn", "with wrong results"),
    "no kernels": (replace(ORIN, tensorrt=Import(version="10.13.3.9")), "tensorrt", "warn", "no kernels for sm87"),
    "old tensorrt": (replace(ORIN, tensorrt=Import(version="8.5.2")), "tensorrt", "warn", "older than 10.3"),
    "broken tensorrt": (replace(ORIN, tensorrt=Import(fault="libnvinfer.so.10")), "tensorrt", "error", "libnvinfer"),
    "no tensorrt": (replace(ORIN, tensorrt=Import()), "tensorrt", "warn", "--system-site-packages"),
    "no cuda-python": (replace(ORIN, packages={}), "cuda-python", "error", "'cuda-bindings==12.9.*'"),
    "pycuda": (replace(ORIN, packages={"pycuda": "2025.1"}), "cuda-python", "note", "without CUDA graphs"),
    "driver too old": (replace(ORIN, packages={"cuda-bindings": "13.0.3"}), "cuda-python", "error", "CUDA 12.6"),
    "clash": (
        replace(LAPTOP, packages={"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}),
        "onnxruntime",
        "error",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
    ),
    "broken onnxruntime": (replace(LAPTOP, onnxruntime=Import(fault="bad ELF")), "onnxruntime", "error", "bad ELF"),
    "no onnxruntime": (replace(LAPTOP, onnxruntime=Import(), packages={}), "onnxruntime", "error", "pip install"),
    "engines alone": (replace(ORIN, onnxruntime=Import(), packages={}), "onnxruntime", "warn", "engines only"),
    "no opencv": (replace(ORIN, opencv=Import()), "opencv", "error", "nvidia-opencv"),
    "broken opencv": (replace(LAPTOP, opencv=Import(fault="libGL.so.1")), "opencv", "error", "headless"),
    "numpy 2": (
        replace(
            ORIN, opencv=Import(fault="numpy.core.multiarray failed to import"), packages={"numpy": "2.2.6"}
        ),
        "opencv",
        "error",
        "numpy>=1.26,<2",
    ),
    "old opencv": (replace(LAPTOP, opencv=Import(version="4.5.4")), "opencv", "warn", "older than 4.8"),
    "two opencvs": (
        replace(LAPTOP, packages={"opencv-python": "4.12", "opencv-python-headless": "4.12"}),
        "opencv",
        "warn",
        "overwrite",
    ),
    "hidden opencv": (replace(ORIN, packages={"opencv-python": "4.12"}), "opencv", "warn", "hides JetPack"),
    "no gstreamer": (replace(LAPTOP, gstreamer=False), "gstreamer", "note", "csi://"),
    "no decoder": (replace(LAPTOP, decoding="no libcuda.so.1"), "decoding", "note", "processor decodes video"),
    "no ffmpeg": (replace(LAPTOP, opencv_build=""), "opencv", "warn", "rtsp://"),
    "power": (replace(ORIN, power_mode="NV Power Mode: 15W\n2\n"), "power", "note", "sudo nvpmodel -m 0"),
    "orin nano": (replace(ORIN, encoder=False, model="NVIDIA Jetson Orin Nano"), "encoder", "note", "Nano has none"),
    "camera rights": (replace(ORIN, cameras=(Camera("/dev/video0", False),)), "cameras", "warn", "usermod -aG video"),
    "no camera": (replace(ORIN, cameras=()), "cameras", "note", "no /dev/video"),
    "little memory": (replace(ORIN, memory_mib=300), "memory", "warn", "300 MiB"),
    "full disk": (replace(ORIN, disk_mib=100), "disk", "warn", "100 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_problem_is_reported_with_its_fix(case: str) -> None:
    facts, check, level, words = CASES[case]
    matching = [finding for finding in told(facts, check) if finding.level == level]
    assert matching, told(facts, check)
    assert any(words in f"{finding.what} {finding.fix}" for finding in matching)
    if level in ("warn", "error") and check != "jetpack":
        assert all(finding.fix for finding in matching)


def test_one_healthy_machine_is_examined_by_every_check() -> None:
    wanted = "python jetpack driver tensorrt cuda-python onnxruntime opencv decoding power encoder cameras memory disk"
    assert {finding.check for finding in examine(ORIN)} == set(wanted.split())


DOCTOR = "from aselect_runtime.commands.doctor import doctor as main; main()"


def test_the_real_command_on_this_machine() -> None:
    run = [sys.executable, "-c", DOCTOR]
    done = subprocess.run([*run, "--json"], capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    assert answer["facts"]["python"] == list(sys.version_info[:2])
    errors = [finding for finding in answer["findings"] if finding["level"] == "error"]
    assert done.returncode == (1 if errors else 0)
    plain = subprocess.run(run, capture_output=True, text=True, check=False).stdout
    assert all(finding["what"] in plain for finding in answer["findings"] if finding["check"] not in ("memory", "disk"))


def test_a_problem_gives_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import aselect_runtime.doctor as module
    from aselect_runtime.commands.doctor import _doctor

    monkeypatch.setattr(module, "probe", lambda: replace(ORIN, python=(3, 8)))
    with pytest.raises(SystemExit) as stopped:
        _doctor()
    assert stopped.value.code == 1
    assert "→ use the Python of JetPack 6 or 7" in capsys.readouterr().out


def test_probing_finds_what_is_installed() -> None:
    facts = probe()
    assert facts.packages["numpy"]
    assert facts.opencv.version
    assert parse_build(facts.opencv_build, "FFMPEG")
    assert facts.memory_mib > 0
    assert facts.disk_mib > 0
