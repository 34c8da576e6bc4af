"""Building TensorRT engines, for the GPU at hand (TensorRT) or ahead of time for another one (TensorRT-RTX).

One builder serves both, written against the API that TensorRT 10.3 to 11 and TensorRT-RTX share. The network is
strongly typed: precision is what the graph says.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aselect_edge.errors import EngineError, InputError, MissingDependencyError
from aselect_edge.files import atomic_write, sha256
from aselect_edge.records import Engine

Builder = Literal["tensorrt", "rtx"]
Progress = Callable[[str], None]

_MODULES: dict[Builder, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_PREFIXES: dict[Builder, str] = {"tensorrt": "trt", "rtx": "rtx"}
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """The GPU at hand: its name and its compute capability, written `sm87`."""

    name: str
    target: str


def find_gpu() -> Gpu | None:
    """The first CUDA device, or None; asks the driver alone, because TensorRT can crash where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    # Each call returns 0 on success; `or` stops at the first that fails. 75 and 76 are the compute capability.
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    ):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")


def available(builder: Builder) -> bool:
    """Whether the builder's package can be imported."""
    try:
        importlib.import_module(_MODULES[builder])
    except (ImportError, OSError):
        return False
    return True


def version(builder: Builder) -> str:
    """The version of the builder's package; raises MissingDependencyError."""
    return str(_load(builder).__version__)


def known_targets() -> tuple[str, ...]:
    """The GPUs that TensorRT-RTX can build for ahead of time, for example ("sm75", "sm80", …)."""
    names = _load("rtx").ComputeCapability.__members__
    return tuple(sorted((n.lower() for n in names if n.startswith("SM")), key=lambda name: int(name[2:])))


def check_target(target: str | None, builder: Builder) -> str:
    """The target that an engine will be built for; raises InputError if this builder cannot serve it."""
    gpu = find_gpu()
    if builder == "tensorrt":
        if gpu is None:
            raise InputError(
                "got --engine tensorrt without an NVIDIA GPU, expected to build on the device itself; "
                "run aselect-build there, or give --target to build ahead of time"
            )
        if target not in (None, gpu.target):
            raise InputError(
                f"got target {target!r}, expected {gpu.target} ({gpu.name}), because TensorRT builds for the GPU at "
                "hand; leave --target out, or use --engine rtx"
            )
        return gpu.target
    targets = known_targets()
    wanted = target or (gpu.target if gpu else None)
    if wanted is None:
        raise InputError(
            "got --engine rtx without --target and without an NVIDIA GPU here, expected one to build for; "
            f"give --target, one of {', '.join(targets)}"
        )
    if wanted not in targets:
        raise InputError(
            f"got target {wanted!r}, expected one of {', '.join(targets)}; for other GPUs (Jetson Orin is sm87) "
            "export without --target and run aselect-build on the device"
        )
    return wanted


def engine_name(builder: Builder, target: str) -> str:
    """The engine's path within its export folder: engines/{trt|rtx}-<version>-<sm>.engine."""
    return f"engines/{_PREFIXES[builder]}-{version(builder)}-{target}.engine"


def build_engine(
    onnx_path: Path,
    out_path: Path,
    target: str | None,
    builder: Builder,
    progress: Progress | None = None,
    workspace_mib: int | None = None,
) -> Engine:
    """Build an engine from a static ONNX graph and write its plain bytes to `out_path`, whole or not at all.

    `target` None means the GPU at hand. The record's `file` is relative to the graph's folder. Raises InputError for
    a target that the builder cannot serve, EngineError if the graph does not parse or build.
    """
    sm = check_target(target, builder)
    trt = _load(builder)
    logger = _logger(builder)
    logger.errors.clear()
    if progress:
        progress(f"building the {sm} engine with {_MODULES[builder]} {trt.__version__}")
    trt_builder = trt.Builder(logger)
    network = trt_builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, onnx_path)
    config = trt_builder.create_builder_config()
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * _MIB)
    if builder == "rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[sm.upper()], 0)
    plan = trt_builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{onnx_path}: {_MODULES[builder]} {trt.__version__} could not build it for {sm} "
            f"({_first(logger.errors)}), expected an engine; try model.fp32.onnx or another version of TensorRT"
        )
    atomic_write(out_path, bytes(plan))
    gpu = find_gpu() if builder == "tensorrt" else None
    folder = onnx_path.resolve().parent
    written = out_path.resolve()
    return Engine(
        file=written.relative_to(folder).as_posix() if written.is_relative_to(folder) else out_path.name,
        sha256=sha256(out_path),
        onnx_sha256=sha256(onnx_path),
        builder="tensorrt" if builder == "tensorrt" else "tensorrt-rtx",
        version=str(trt.__version__),
        target=sm,
        gpu=gpu.name if gpu else None,
        flags={"strongly_typed": "true", **({"workspace_mib": str(workspace_mib)} if workspace_mib else {})},
    )


def _parse(trt: Any, network: Any, logger: Any, onnx_path: Path) -> None:
    if not onnx_path.is_file():
        raise InputError(f"{onnx_path}: no such file, expected an ONNX graph; check the path")
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx_path)):
        return
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    # The last fault is the cause; those before it are nodes that merely depend on it, if there are any at all.
    if faults and faults[-1].node_operator():
        fault = faults[-1]
        where = f"node {fault.node_name() or fault.node()} ({fault.node_operator()}): {_brief(fault.desc())}"
    else:
        where = _brief(faults[-1].desc()) if faults else _first(logger.errors)
    raise EngineError(
        f"{onnx_path}: {trt.__name__} {trt.__version__} cannot read it: {where}; "
        "expected a graph that aselect-export wrote; export again, or use a newer TensorRT"
    )


@functools.cache
def _load(builder: Builder) -> Any:
    name = _MODULES[builder]
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        how = (
            "pip install tensorrt-rtx (Linux x86-64)"
            if builder == "rtx"
            else "on a Jetson make the environment with --system-site-packages, elsewhere pip install tensorrt"
        )
        raise MissingDependencyError(
            f"got no usable {name} ({error}), expected it for building engines; {how}"
        ) from error


@functools.cache
def _logger(builder: Builder) -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given and ignores any other."""
    trt = _load(builder)

    class Errors(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors for the exception's text, instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Errors()


def _first(errors: list[str]) -> str:
    return _brief(errors[0]) if errors else "no reason given"


def _brief(text: str) -> str:
    """The first two lines as one: the rest is TensorRT's own consequences of them."""
    return " - ".join(line.strip() for line in text.strip().splitlines()[:2])
