"""Opening device memory with the installed package: cuda-python, otherwise pycuda."""

from __future__ import annotations

from importlib.util import find_spec

from aselect_runtime.engines.device_memory import DeviceMemory
from aselect_runtime.errors import MissingDependencyError


def open_memory() -> DeviceMemory:
    """Device memory through cuda-python if installed, otherwise pycuda; raises MissingDependencyError if neither is."""
    if _installed("cuda.bindings.runtime") or _installed("cuda.cudart"):
        from aselect_runtime.engines.cuda_python import CudaPython

        return CudaPython()
    if _installed("pycuda.driver"):
        from aselect_runtime.engines.py_cuda import PyCuda

        return PyCuda()
    raise MissingDependencyError(
        "got neither cuda-python nor pycuda, expected one for running TensorRT engines; pip install cuda-bindings "
        "(12.9 on JetPack 6, 13 on JetPack 7)"
    )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or is an unrelated one of the same name
        return False
