"""TensorRT engines: built on the device or ahead of time, cached, verified, and run.

    add_engines(Path("export"), ())                     as aselect-build does
    session = open_engine(Path("export"), manifest)     as aselect-run does on a machine with a GPU

TensorRT is not imported before a driver has been found: without one TensorRT can crash the interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aselect_runtime.lazy import attributes

if TYPE_CHECKING:
    from aselect_runtime.engines.builder import BuildOptions, build_engine, check_target, engine_name
    from aselect_runtime.engines.building import add_engines, open_engine, runnable

__all__ = ["BuildOptions", "add_engines", "build_engine", "check_target", "engine_name", "open_engine", "runnable"]

# Lazy: the doctor looks for a GPU, and must be able to do so without OpenCV.
__getattr__ = attributes(
    __name__,
    {
        "BuildOptions": "builder",
        "add_engines": "building",
        "build_engine": "builder",
        "check_target": "builder",
        "engine_name": "builder",
        "open_engine": "building",
        "runnable": "building",
    },
)
