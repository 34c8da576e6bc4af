"""What is asked of a machine, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aselect_runtime.engines.gpu import Gpu

Level = Literal["ok", "note", "warn", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is the command or the step that helps."""

    check: str
    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Import:
    """A package that was tried: its version, or why it does not import; neither if it is not installed."""

    version: str | None = None
    fault: str | None = None


HALF = "half of it was removed with another wheel"
"""The fault of a package that imports and is empty."""


@dataclass(frozen=True)
class Camera:
    """A video device, and whether this user may open it."""

    path: str
    readable: bool


@dataclass(frozen=True)
class Facts:
    """A machine as the checks see it. Texts are what files and programs said; None where there is no such thing."""

    python: tuple[int, int]
    machine: str
    """As `uname -m` says: x86_64, aarch64."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of installed distributions, by name in lower case with hyphens."""
    opencv: Import = Import()
    opencv_build: str = ""
    onnxruntime: Import = Import()
    tensorrt: Import = Import()
    tensorrt_rtx: Import = Import()
    gpu: Gpu | None = None
    driver_cuda: tuple[int, int] | None = None
    """The newest CUDA version that the driver serves."""
    tegra_release: str | None = None
    """/etc/nv_tegra_release."""
    model: str | None = None
    """The board, from the device tree."""
    power_mode: str | None = None
    """What `nvpmodel -q` prints."""
    encoder: bool | None = None
    """Whether NVIDIA's hardware video encoder is there; None if it was not found out."""
    cameras: tuple[Camera, ...] = ()
    memory_mib: int = 0
    """Memory that programs can have now."""
    disk_mib: int = 0
    """Free space where the command was called."""


@dataclass(frozen=True)
class L4t:
    """Jetson Linux, for example 36.4.3, and the JetPack it belongs to (None if this list does not know it)."""

    release: str
    jetpack: int | None


JETPACKS = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Major release of Jetson Linux -> JetPack (developer.nvidia.com/embedded/jetson-linux-archive)."""


def parse_tegra_release(text: str) -> L4t | None:
    """Read /etc/nv_tegra_release, whose first line is `# R36 (release), REVISION: 4.3, GCID: …`; None if it is not."""
    match = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return L4t(f"{match[1]}.{match[2]}", JETPACKS.get(int(match[1]))) if match else None


def parse_build(text: str, feature: str) -> bool:
    """Whether OpenCV's build information says YES to a feature, for example `GStreamer`."""
    match = re.search(rf"^\s*{re.escape(feature)}:\s+(\w+)", text, re.MULTILINE)
    return match is not None and match[1].upper() == "YES"


def parse_power_mode(text: str) -> tuple[str, int | None]:
    """Name and number of `nvpmodel -q`: a line `NV Power Mode: 15W`, then the number alone."""
    match = re.search(r"NV Power Mode:\s*(\S+)(?:\s+(\d+))?", text)
    return (match[1], int(match[2]) if match[2] else None) if match else ("unknown", None)
