"""The facts that are collected about a machine, and the findings of the checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aselect_runtime.engines.gpu import Gpu

Level = Literal["ok", "note", "warn", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check; `fix` is the command or step that solves the problem."""

    check: str
    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Import:
    """Result of importing a package: its version, or why the import failed; neither if it is not installed."""

    version: str | None = None
    fault: str | None = None


HALF = "half of it was removed with another wheel"
"""The fault of a package that can be imported but is empty."""


@dataclass(frozen=True)
class Camera:
    """A video device, and whether this user may open it."""

    path: str
    readable: bool


@dataclass(frozen=True)
class Facts:
    """Facts about a machine. Texts are the contents of files and the output of programs; None if there is none."""

    python: tuple[int, int]
    machine: str
    """Output of `uname -m`: x86_64, aarch64."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of installed distributions, by name in lower case with hyphens."""
    opencv: Import = Import()
    opencv_build: str = ""
    gstreamer: bool = False
    """Whether GStreamer's libraries and basic elements are here, for csi:// and pipelines."""
    decoding: str | None = ""
    """Why no hardware decodes video here; None where some does, empty if it was not asked."""
    onnxruntime: Import = Import()
    tensorrt: Import = Import()
    tensorrt_rtx: Import = Import()
    gpu: Gpu | None = None
    driver_cuda: tuple[int, int] | None = None
    """The newest CUDA version (major, minor) that the driver supports."""
    tegra_release: str | None = None
    """Content of /etc/nv_tegra_release."""
    model: str | None = None
    """Name of the board, from the device tree."""
    power_mode: str | None = None
    """Output of `nvpmodel -q`."""
    encoder: bool | None = None
    """Whether NVIDIA's hardware video encoder is present; None if unknown."""
    cameras: tuple[Camera, ...] = ()
    memory_mib: int = 0
    """Available memory."""
    disk_mib: int = 0
    """Free disk space in the current folder."""


@dataclass(frozen=True)
class L4t:
    """Version of Jetson Linux, for example 36.4.3, and the JetPack it belongs to (None if not in JETPACKS)."""

    release: str
    jetpack: int | None


JETPACKS = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Major release of Jetson Linux -> JetPack (developer.nvidia.com/embedded/jetson-linux-archive)."""


def parse_tegra_release(text: str) -> L4t | None:
    """Parse /etc/nv_tegra_release, with the first line `# R36 (release), REVISION: 4.3, GCID: …`; None otherwise."""
    match = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return L4t(f"{match[1]}.{match[2]}", JETPACKS.get(int(match[1]))) if match else None


def parse_build(text: str, feature: str) -> bool:
    """Whether OpenCV's build information says YES to a feature, for example `GStreamer`."""
    match = re.search(rf"^\s*{re.escape(feature)}:\s+(\w+)", text, re.MULTILINE)
    return match is not None and match[1].upper() == "YES"


def parse_power_mode(text: str) -> tuple[str, int | None]:
    """Name and number of the mode from `nvpmodel -q`: a line `NV Power Mode: 15W`, then a line with the number."""
    match = re.search(r"NV Power Mode:\s*(\S+)(?:\s+(\d+))?", text)
    return (match[1], int(match[2]) if match[2] else None) if match else ("unknown", None)
