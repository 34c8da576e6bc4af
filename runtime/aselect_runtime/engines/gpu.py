"""The GPU of this machine, from the CUDA driver alone, without TensorRT or a CUDA toolkit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name and its compute capability, written as `sm87`."""

    name: str
    target: str


def find_gpu() -> Gpu | None:
    """The first CUDA device, or None where there is no driver or no device."""
    cuda = _driver()
    if cuda is None:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    # Each call returns 0 on success; `or` stops at the first that fails.
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    ):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version (major, minor) that the driver supports, or None without a driver."""
    cuda, number = _driver(), ctypes.c_int()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
