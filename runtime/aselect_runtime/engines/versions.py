"""Differences between TensorRT's versions; no other module depends on the version.

All other code uses only what TensorRT 10.3 to 11 and TensorRT-RTX share. Differences are detected by feature, not by
version number, except for the versions that are known to give wrong results.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Literal

from aselect_runtime.errors import MissingDependencyError

Builder = Literal["tensorrt", "rtx"]
MODULES: dict[Builder, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
PREFIXES: dict[Builder, str] = {"tensorrt": "trt", "rtx": "rtx"}

OLDEST = (10, 3)
"""The oldest supported TensorRT (JetPack 6)."""


def available(builder: Builder) -> bool:
    """Whether the builder's package can be imported."""
    try:
        importlib.import_module(MODULES[builder])
    except (ImportError, OSError):
        return False
    return True


def load(builder: Builder) -> Any:
    """The builder's module; raises MissingDependencyError."""
    name = MODULES[builder]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        how = (
            "pip install tensorrt-rtx (Linux, x86-64 or aarch64)"
            if builder == "rtx"
            else "on a Jetson create the environment with --system-site-packages, elsewhere pip install tensorrt"
        )
        raise MissingDependencyError(
            f"got no usable {name} ({error}), expected it for TensorRT engines; {how}"
        ) from error


def version(builder: Builder) -> str:
    """The version of the builder's package; raises MissingDependencyError."""
    return str(load(builder).__version__)


def parsed(version_text: str) -> tuple[int, int]:
    """(major, minor) of a version such as `10.13.3.9`; (0, 0) for any other text."""
    match = re.match(r"(\d+)\.(\d+)", version_text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def known_fault(builder: Builder, version_text: str, target: str) -> str | None:
    """The known fault of this version on this GPU, or None."""
    if builder == "rtx":
        return None
    number = parsed(version_text)
    if number < OLDEST:
        return f"TensorRT {version_text} is older than {OLDEST[0]}.{OLDEST[1]}"
    if (10, 3) <= number <= (10, 7):
        return f"TensorRT {version_text} has built vision transformers with wrong results (10.3 to 10.7)"
    if version_text.startswith("10.13.3") and target == "sm87":
        return "TensorRT 10.13.3 has no kernels for sm87 (Jetson Orin)"
    return None


def network_flags(trt: Any) -> int:
    """Strongly typed: the graph determines the precision. Deprecated from TensorRT 11 on, which always does that."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def known_targets(trt: Any) -> tuple[str, ...]:
    """The targets that this package can build for ahead of time, for example ("sm75", "sm80", …); () for TensorRT."""
    names = trt.ComputeCapability.__members__ if hasattr(trt, "ComputeCapability") else ()
    return tuple(sorted((n.lower() for n in names if n.startswith("SM")), key=lambda name: int(name[2:])))


def set_target(trt: Any, trt_config: Any, target: str) -> None:
    """Set the build target if the package supports other targets than this machine's GPU."""
    if hasattr(trt_config, "num_compute_capabilities"):
        trt_config.num_compute_capabilities = 1
        trt_config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], 0)


def times_kernels(trt: Any) -> bool:
    """Whether a build times kernels, so that a timing cache is useful.

    A package with a runtime cache compiles its kernels on the device when the engine is loaded; its timing cache has no
    effect.
    """
    return not hasattr(trt, "IRuntimeCache")
