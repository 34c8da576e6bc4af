"""How fast a model is on this machine: the session alone, measured as trtexec does, and the whole pipeline."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np

from aselect_runtime.backends import open_model, usable_devices
from aselect_runtime.errors import EngineError, GateError, IncompleteError, InputError, MissingDependencyError
from aselect_runtime.frames import Frame, resize
from aselect_runtime.options import MOST_SECONDS, Device, within
from aselect_runtime.pipeline.run import run_pipeline
from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Manifest
from aselect_runtime.redaction import redact
from aselect_runtime.sessions.session import Session
from aselect_runtime.sources import open_source

log = logging.getLogger(__name__)

COMPUTING_STAGES = ("capture", "resize", "infer")
"""Stages that compute; the others include waiting for another stage."""


@dataclass(frozen=True)
class Effort:
    """How long to measure. trtexec's defaults: 200 ms of warm-up, then at least 10 iterations and at least 3 s."""

    warmup_ms: float = 200.0
    iterations: int = 10
    duration: float = 3.0
    """Seconds, for the session and for the pipeline each."""

    def __post_init__(self) -> None:
        within(self.warmup_ms, 0, 1000 * MOST_SECONDS, "warmup", whole=False)
        within(self.duration, 0, MOST_SECONDS, "duration", whole=False)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call of the session: a whole batch, from frames in host memory to outputs in host memory."""

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """Statistics of at least one time in milliseconds; percentiles are interpolated linearly."""
        values = np.asarray(times)
        shares = np.percentile(values, (50, 90, 95, 99))
        return cls(*(round(float(value), 4) for value in (values.min(), values.max(), values.mean(), *shares)))


@dataclass(frozen=True)
class SessionRate:
    """The session alone, called repeatedly with one batch of real frames."""

    iterations: int
    seconds: float
    fps: float
    """Frames per second: batch size times iterations over seconds."""
    latency_ms: Latency


@dataclass(frozen=True)
class Benchmark:
    """One model on one device."""

    device: str
    batch: int
    warmup_ms: float
    session: SessionRate
    source: str
    pipeline: RunSummary
    share: float
    """Frames per second of the pipeline over those of the session alone."""
    limit: str
    """The slowest computing stage, which limits the pipeline's rate."""

    def to_dict(self) -> dict[str, Any]:
        """The benchmark as JSON types."""
        return asdict(self)


def benchmark(model: Path, device: Device, source: str, effort: Effort, progress: Progress = silent) -> Benchmark:
    """Measure a model on one device; raises what open_model, open_source and run_pipeline raise."""
    manifest, session = open_model(model, device, progress)
    try:
        alone = measure_session(session, sample(source, manifest), effort)
        try:
            whole = run_pipeline(manifest, session, [source], max_seconds=effort.duration)
        except IncompleteError as error:  # the source is measured up to its fault
            log.warning("%s; the pipeline was measured until then", error)
            whole = cast(RunSummary, error.summary)
    finally:
        session.close()
    share = round(whole.fps / alone.fps, 4)
    batch = manifest.input.shape[0]
    limit = max(set(whole.stages) & set(COMPUTING_STAGES), key=lambda stage: whole.stages[stage].p50)
    return Benchmark(session.device, batch, effort.warmup_ms, alone, redact(source), whole, share, limit)


def benchmark_all(model: Path, source: str, effort: Effort, progress: Progress = silent) -> list[Benchmark]:
    """Measure a model on every available device; a device that cannot run it is logged and left out.

    Raises what `benchmark` raises on the last device, the CPU.
    """
    found: list[Benchmark] = []
    devices = usable_devices(model)
    for device in devices:
        try:
            found.append(benchmark(model, device, source, effort, progress))
        except (EngineError, GateError, MissingDependencyError) as error:
            if device == devices[-1]:
                raise
            log.warning("%s; continuing without %s", error, device)
    return found


def measure_session(session: Session, frames: Frame, effort: Effort) -> SessionRate:
    """Call the session on uint8 [N, H, W, 3] as `effort` says; latencies include the calls only, not the loop."""
    for _ in _repetitions(effort.warmup_ms / 1000, 1):
        session.infer(frames)
    times = []
    began = time.perf_counter()
    for _ in _repetitions(effort.duration, effort.iterations):
        start = time.perf_counter()
        session.infer(frames)
        times.append((time.perf_counter() - start) * 1000)
    seconds = time.perf_counter() - began
    fps = len(times) * frames.shape[0] / seconds
    return SessionRate(len(times), round(seconds, 6), round(fps, 2), Latency.of(times))


def sample(source: str, manifest: Manifest) -> Frame:
    """A model input, uint8 [N, H, W, 3], made from the first frame of a source."""
    batch, height, width, _ = manifest.input.shape
    with open_source(source) as opened:
        for captured in opened:
            pixels = resize(captured.frame, (height, width), manifest.resize)
            return np.ascontiguousarray(np.repeat(pixels[None], batch, axis=0))
    raise InputError(f"{redact(source)}: got no frame, expected at least one; check the source")


def _repetitions(seconds: float, least: int) -> Iterable[int]:
    """Count from 0 until at least `seconds` have passed and `least` numbers were given."""
    end = time.perf_counter() + seconds
    for number in count():
        if number >= least and time.perf_counter() >= end:
            return
        yield number


def report(benchmarks: Sequence[Benchmark], effort: Effort) -> str:
    """The results as a text table with one column per device."""
    first = benchmarks[0]
    rows: list[tuple[str, list[str]]] = [
        ("session alone [frames/s]", [f"{item.session.fps:.1f}" for item in benchmarks]),
        ("  iterations", [str(item.session.iterations) for item in benchmarks]),
        *(
            (f"  latency {name} [ms]", [f"{getattr(item.session.latency_ms, name):.2f}" for item in benchmarks])
            for name in ("min", "max", "mean", "median", "p90", "p95", "p99")
        ),
        ("whole pipeline [frames/s]", [f"{item.pipeline.fps:.1f}" for item in benchmarks]),
        ("  share of the session's rate", [f"{item.share:.0%}" for item in benchmarks]),
        ("  limited by", [item.limit for item in benchmarks]),
        ("  frames", [str(item.pipeline.frames) for item in benchmarks]),
        ("  dropped", [str(item.pipeline.dropped) for item in benchmarks]),
        *(
            (f"  {stage} p50 / p95 / p99 [ms]", [_percentiles(item.pipeline, stage) for item in benchmarks])
            for stage in first.pipeline.stages
        ),
    ]
    title = (
        f"batch {first.batch}, source {first.source}; {effort.warmup_ms:g} ms of warm-up, then at least "
        f"{effort.iterations} iterations and {effort.duration:g} s"
    )
    left = max(len(name) for name, _ in rows)
    width = max(24, *(len(cell) + 2 for _, cells in rows for cell in cells))
    header = " " * left + "".join(f"{item.device:>{width}}" for item in benchmarks)
    body = [f"{name:<{left}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in rows]
    return "\n".join([title, header, *body])


def _percentiles(summary: RunSummary, stage: str) -> str:
    times = summary.stages.get(stage)
    return "-" if times is None else f"{times.p50:.2f} / {times.p95:.2f} / {times.p99:.2f}"
