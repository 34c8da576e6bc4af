"""aselect-bench as a process, and the arithmetic of its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from aselect_runtime.backends import usable_devices
from aselect_runtime.bench import (
    Benchmark,
    Effort,
    Latency,
    SessionRate,
    benchmark,
    benchmark_all,
    measure_session,
    report,
)
from aselect_runtime.commands.bench import DeviceName
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.options import Device
from aselect_runtime.results import Arrays
from tests.runtime import videos

STREET = "synthetic://street?size=48x64&frames=6"
SHORT = Effort(warmup_ms=1, iterations=5, duration=0.02)


class Counting:
    """A session that counts its calls."""

    device = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, frames: Frame) -> Arrays:
        self.calls += 1
        return {"class_map": frames[..., 0]}

    def close(self) -> None:
        pass


def test_latencies_of_known_times() -> None:
    latency = Latency.of([float(value) for value in range(1, 102)])
    assert latency == Latency(min=1, max=101, mean=51, median=51, p90=91, p95=96, p99=100)


def test_one_time_is_every_figure() -> None:
    assert Latency.of([2.5]) == Latency(2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5)


def test_iterations_are_a_least_number_and_the_warm_up_is_not_among_them() -> None:
    session = Counting()
    rate = measure_session(session, np.zeros((2, 4, 4, 3), np.uint8), Effort(0, 7, 0))
    assert rate.iterations == 7
    assert session.calls == 8  # a first call is always warm-up
    assert rate.fps == pytest.approx(2 * 7 / rate.seconds, rel=0.9)


def test_duration_is_a_least_time() -> None:
    rate = measure_session(Counting(), np.zeros((1, 4, 4, 3), np.uint8), Effort(0, 1, 0.05))
    assert rate.seconds >= 0.05
    assert rate.iterations > 1


def test_session_and_pipeline_of_a_model(seg_model: Path) -> None:
    found = benchmark(seg_model, "cpu", STREET, SHORT)
    assert (found.device, found.batch, found.source) == ("cpu", 1, STREET)
    assert 0 < found.pipeline.frames <= 6
    assert found.session.iterations >= 5
    assert found.limit in {"capture", "resize", "infer"}
    assert found.share == pytest.approx(found.pipeline.fps / found.session.fps, abs=1e-3)
    latency = found.session.latency_ms
    assert latency.min <= latency.median <= latency.p90 <= latency.p95 <= latency.p99 <= latency.max


def test_the_table_has_a_column_for_each_device(seg_model: Path) -> None:
    found = benchmark(seg_model, "cpu", STREET, SHORT)
    other = Benchmark(
        "other", 1, 1, SessionRate(5, 1, 12.3, found.session.latency_ms), STREET, found.pipeline, 0.5, "x"
    )
    text = report([found, other], SHORT)
    assert "1 ms of warm-up, then at least 5 iterations and 0.02 s" in text
    rows = {line.split("  ")[0].strip() or line.split("  ")[1]: line for line in text.splitlines()}
    assert rows["session alone [frames/s]"].split()[-1] == "12.3"
    assert rows["share of the session's rate"].split()[-1] == "50%"
    assert text.splitlines()[1].split() == ["cpu", "other"]


def test_a_source_without_frames(seg_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no image"):
        benchmark(seg_model, "cpu", str(tmp_path), SHORT)


def test_a_source_that_breaks_off_is_measured_until_then(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = videos.write(tmp_path / "cut.mkv", videos.regular())
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found = benchmark(seg_model, "cpu", str(cut), replace(SHORT, duration=5))
    assert 0 < found.pipeline.frames < videos.FRAMES
    assert "the pipeline was measured until then" in caplog.text


def test_the_command_prints_json_or_a_table(seg_model: Path) -> None:
    command = [sys.executable, "-c", "from aselect_runtime.commands.bench import bench; bench()", str(seg_model)]
    options = ["--source", STREET, "--device", "cpu", "--warmup", "1", "--iterations", "3", "--duration", "0.5"]
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = json.loads(done.stdout)["benchmarks"]
    assert found["session"]["iterations"] >= 3
    assert set(found["session"]["latency_ms"]) == {"min", "max", "mean", "median", "p90", "p95", "p99"}
    assert {"infer", "capture", "resize"} <= set(found["pipeline"]["stages"])
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert "latency p99 [ms]" in done.stdout


def test_the_devices_to_compare_are_those_that_there_are() -> None:
    assert {name.value for name in DeviceName} == set(get_args(Device))


def test_without_a_device_all_that_are_here_are_measured(seg_model: Path) -> None:
    assert [found.device for found in benchmark_all(seg_model, STREET, SHORT)] == usable_devices(seg_model)
