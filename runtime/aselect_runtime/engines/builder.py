"""Building TensorRT engines, for this machine's GPU (TensorRT) or ahead of time for another one (TensorRT-RTX).

The code uses only the API that TensorRT 10.3 to 11 and TensorRT-RTX share. The network is strongly typed: the graph
determines the precision.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.log import brief, first, logger, remedy
from aselect_runtime.engines.phases import PhaseTree
from aselect_runtime.engines.versions import (
    MODULES,
    PREFIXES,
    Builder,
    known_targets,
    load,
    network_flags,
    set_target,
    times_kernels,
    version,
)
from aselect_runtime.errors import EngineError, InputError
from aselect_runtime.files import atomic_write, sha256
from aselect_runtime.folder import graph_hash
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Engine

log = logging.getLogger(__name__)

_MIB = 1 << 20


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builder: workspace for trying kernels (MiB), and 0 (fast build) to 5 (fast engine)."""

    workspace_mib: int | None = None
    optimization_level: int | None = None

    def flags(self) -> dict[str, str]:
        """The options as the engine's record and the cache's key store them, without those that are None."""
        given = {"workspace_mib": self.workspace_mib, "optimization_level": self.optimization_level}
        return {"strongly_typed": "true", **{name: str(value) for name, value in given.items() if value is not None}}


def check_target(target: str | None, builder: Builder) -> str:
    """The target that an engine will be built for; raises InputError if this builder does not support it."""
    gpu = find_gpu()
    if builder == "tensorrt":
        if gpu is None:
            ahead = "give a target to build ahead of time" if target is None else "use the engine rtx for this target"
            raise InputError(
                "got no NVIDIA GPU, expected one, because TensorRT builds on the device itself; "
                f"run aselect-build there, or {ahead}",
                parameter="target" if target is None else ("target", "engine"),
            )
        if target not in (None, gpu.target):
            raise InputError(
                f"got target {target!r}, expected {gpu.target} ({gpu.name}), because TensorRT builds for this "
                "machine's GPU; leave the target out, or use the engine rtx",
                parameter=("target", "engine"),
            )
        return gpu.target
    targets = known_targets(load("rtx"))
    wanted = target or (gpu.target if gpu else None)
    if wanted is None:
        raise InputError(
            "got the engine rtx without a target and no NVIDIA GPU, expected a GPU to build for; "
            f"give a target, one of {', '.join(targets)}",
            parameter="target",
        )
    if wanted not in targets:
        raise InputError(
            f"got target {wanted!r}, expected one of {', '.join(targets)}; for other GPUs (Jetson Orin is sm87) "
            "export without a target and run aselect-build on the device",
            parameter="target",
        )
    return wanted


def engine_name(builder: Builder, target: str) -> str:
    """The engine's path within its export folder: engines/{trt|rtx}-<version>-<sm>.engine."""
    return f"engines/{PREFIXES[builder]}-{version(builder)}-{target}.engine"


def build_engine(
    onnx_path: Path,
    out_path: Path,
    target: str | None,
    builder: Builder,
    progress: Progress = silent,
    *,
    options: BuildOptions | None = None,
    stop: Event | None = None,
    timing: Path | None = None,
) -> Engine:
    """Build an engine from a static ONNX graph and write its bytes to `out_path` atomically.

    `target` None means this machine's GPU. The record's `file` is relative to the graph's folder. The timing cache is
    `timing`, or a file next to the engine. `stop`, or Ctrl-C, ends the build at TensorRT's next step with
    KeyboardInterrupt. Raises InputError for a target that the builder does not support, EngineError if the graph cannot
    be parsed or built.
    """
    sm = check_target(target, builder)
    options, stop = options or BuildOptions(), stop or Event()
    if not onnx_path.is_file():
        raise InputError(f"{onnx_path}: no such file, expected an ONNX graph; check the path")
    log.info("building the %s engine of %s with %s %s", sm, onnx_path.name, MODULES[builder], version(builder))
    timing = timing or out_path.with_suffix(".timing")
    # In a separate thread: Python runs signal handlers in the main thread only, which would be blocked in TensorRT.
    with ThreadPoolExecutor(1, "engine-builder") as thread:
        try:
            plan = thread.submit(_build, onnx_path, sm, builder, options, timing, progress, stop).result()
        except BaseException:
            stop.set()
            raise
    atomic_write(out_path, plan)
    gpu = find_gpu() if builder == "tensorrt" else None
    folder, written = onnx_path.resolve().parent, out_path.resolve()
    return Engine(
        file=written.relative_to(folder).as_posix() if written.is_relative_to(folder) else out_path.name,
        sha256=sha256(out_path),
        onnx_sha256=graph_hash(partial(_hash_in, onnx_path.parent), onnx_path.name),
        builder="tensorrt" if builder == "tensorrt" else "tensorrt-rtx",
        version=version(builder),
        target=sm,
        gpu=gpu.name if gpu else None,
        flags=options.flags(),
        model=onnx_path.name,
    )


def _hash_in(folder: Path, name: str) -> str | None:
    return sha256(folder / name) if (folder / name).is_file() else None


def _build(
    onnx_path: Path, sm: str, builder: Builder, options: BuildOptions, timing: Path, progress: Progress, stop: Event
) -> bytes:
    trt, messages = load(builder), logger(builder)
    messages.errors.clear()
    trt_builder = trt.Builder(messages)
    if trt_builder is None:
        raise EngineError(
            f"got no builder from {MODULES[builder]} ({first(messages.errors)}), expected one; run aselect-doctor"
        )
    trt_network = trt_builder.create_network(network_flags(trt))
    _parse(trt, trt_network, messages, onnx_path)
    trt_config = trt_builder.create_builder_config()
    if options.workspace_mib is not None:
        trt_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.optimization_level is not None:
        trt_config.builder_optimization_level = options.optimization_level
    if builder == "tensorrt":
        # What is built here is verified here, and its inspector then names the type of each tensor.
        trt_config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    set_target(trt, trt_config, sm)
    trt_config.progress_monitor = _monitor(trt, progress, stop)
    trt_cache = _timing_cache(trt_config, timing) if times_kernels(trt) else None
    plan = trt_builder.build_serialized_network(trt_network, trt_config)
    if stop.is_set():
        raise KeyboardInterrupt
    if plan is None:
        otherwise = "try model.fp32.onnx or another version of TensorRT"
        advice = remedy(messages.errors, otherwise, options.workspace_mib)
        raise EngineError(
            f"{onnx_path}: {MODULES[builder]} {trt.__version__} could not build it for {sm} "
            f"({first(messages.errors)}), expected an engine; {advice}"
        )
    if trt_cache is not None:
        atomic_write(timing, bytes(trt_cache.serialize()))
    return bytes(plan)


def _timing_cache(trt_config: Any, path: Path) -> Any:
    """The kernel timings of earlier builds; an empty cache if there are none, or they are of another GPU."""
    if path.is_file():
        trt_cache = trt_config.create_timing_cache(path.read_bytes())
        if trt_cache is not None and trt_config.set_timing_cache(trt_cache, False):
            return trt_cache
    trt_cache = trt_config.create_timing_cache(b"")
    trt_config.set_timing_cache(trt_cache, False)
    return trt_cache


def _parse(trt: Any, trt_network: Any, messages: Any, onnx_path: Path) -> None:
    trt_parser = trt.OnnxParser(trt_network, messages)
    if trt_parser.parse_from_file(str(onnx_path)):
        return
    faults = [trt_parser.get_error(index) for index in range(trt_parser.num_errors)]
    # The last fault is the cause; those before it, if any, are of nodes that depend on it.
    trt_fault = faults[-1] if faults else None
    if trt_fault is not None and trt_fault.node_operator():
        node = trt_fault.node_name() or trt_fault.node()
        where = f"node {node} ({trt_fault.node_operator()}): {brief(trt_fault.desc())}"
    else:
        where = brief(trt_fault.desc()) if trt_fault is not None else first(messages.errors)
    raise EngineError(
        f"{onnx_path}: {trt.__name__} {trt.__version__} cannot read it: {where}; "
        "expected a graph that aselect-export wrote; export again, or use a newer TensorRT"
    )


def _monitor(trt: Any, progress: Progress, stop: Event) -> Any:
    tree = PhaseTree()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Never raises: TensorRT cannot pass on an exception."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)
            self._report()

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Return False to end the build."""
            tree.step(phase_name, step)
            self._report()
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            tree.finish(phase_name)
            self._report()

        def _report(self) -> None:
            try:
                progress(tree.current, tree.fraction)
            except Exception:  # a broken terminal must not end a build of many minutes
                stop_reporting()

    def stop_reporting() -> None:
        nonlocal progress
        progress = silent

    return Monitor()
