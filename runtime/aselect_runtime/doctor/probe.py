"""Collecting facts about the machine. Anything that is missing is recorded as missing and raises no error."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from aselect_runtime.doctor.facts import HALF, Camera, Facts, Import
from aselect_runtime.engines.gpu import driver_cuda, find_gpu

_MIB = 1 << 20
_ENCODERS = ("/dev/v4l2-nvenc", "/dev/nvhost-msenc")
"""Device nodes of the encoder on Jetsons that have one (from JetPack 6 on; before)."""


def probe() -> Facts:
    """Collect the facts about this machine."""
    opencv, build = _opencv()
    gstreamer, decoding = _video() if opencv.version else (False, "")
    return Facts(
        python=sys.version_info[:2],
        machine=platform.machine(),
        packages=_packages(),
        opencv=opencv,
        opencv_build=build,
        gstreamer=gstreamer,
        decoding=decoding,
        onnxruntime=_imported("onnxruntime"),
        tensorrt=_imported("tensorrt"),
        tensorrt_rtx=_imported("tensorrt_rtx"),
        gpu=find_gpu(),
        driver_cuda=driver_cuda(),
        tegra_release=_text("/etc/nv_tegra_release"),
        model=_text("/proc/device-tree/model"),
        power_mode=_output("nvpmodel", "-q"),
        encoder=_encoder(),
        cameras=tuple(Camera(path, os.access(path, os.R_OK | os.W_OK)) for path in sorted(glob("/dev/video*"))),
        memory_mib=_memory(),
        disk_mib=shutil.disk_usage(".").free // _MIB,
    )


def _packages() -> dict[str, str]:
    names = ((item.metadata["Name"], item.version) for item in importlib.metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in names if name}


def _imported(module: str) -> Import:
    try:
        return Import(version=str(getattr(importlib.import_module(module), "__version__", "unknown")))
    except ModuleNotFoundError as error:
        return Import() if error.name == module else Import(fault=str(error))
    except Exception as error:  # a broken installation may raise any error
        return Import(fault=str(error).strip().split("\n", 1)[0][:200] or type(error).__name__)


def _opencv() -> tuple[Import, str]:
    found = _imported("cv2")
    if not found.version:
        return found, ""
    try:
        return found, str(importlib.import_module("cv2").getBuildInformation())
    except AttributeError:  # a folder left by an uninstalled wheel can still be imported as an empty package
        return Import(fault=HALF), ""


def _video() -> tuple[bool, str | None]:
    """Whether GStreamer is here, and why no hardware decodes; both need an OpenCV that imports."""
    from aselect_runtime.sources.decoding import hardware_fault
    from aselect_runtime.sources.gstreamer_library import has_element

    return has_element("appsink"), hardware_fault()


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").replace("\0", "").strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _encoder() -> bool | None:
    if Path("/etc/nv_tegra_release").exists():
        return any(Path(node).exists() for node in _ENCODERS)
    if driver_cuda() is None:
        return None
    try:
        ctypes.CDLL("libnvidia-encode.so.1")
    except OSError:
        return False
    return True


def _memory() -> int:
    lines = (_text("/proc/meminfo") or "").splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:")), 0)
