"""What Prometheus reads, parsed by its own client."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")

from prometheus_client.parser import text_string_to_metric_families

from aselect_runtime.errors import InputError
from aselect_runtime.health import Health, SinkHealth, SourceHealth, SourceState
from aselect_runtime.records import Manifest
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks import open_sink
from aselect_runtime.sinks.metrics import Metrics
from tests.runtime.manifests import small_manifest

CAMERA = SourceInfo("rtsp://***@camera/1", fps=30, live=True)


def _result(outputs: dict[str, Any], health: Health | None = None) -> Result:
    captured = Captured(np.zeros((24, 32, 3), np.uint8), 0, "frame", CAMERA, t_capture=100.0)
    manifest = small_manifest("seg" if "class_map" in outputs else "cls")
    return Result(captured, outputs, manifest, 100.05, {"infer": 40.0, "resize": 2.0}, health or Health())


def _values(text: str) -> dict[str, float]:
    """Every sample as `name{label=value,...}`."""
    return {
        sample.name
        + "{"
        + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_latencies_and_shares(seg_model: Path) -> None:
    metrics = Metrics(Manifest.load(seg_model / "manifest.json"))
    class_map = np.zeros((24, 32), np.uint8)
    class_map[:, 8:] = 2
    sources = (SourceHealth(CAMERA.name, "live", 7, 3, 2, repeated=4), SourceHealth("door", "lost", 5))
    sinks = (SinkHealth("video.mp4", "failed", 6, 4),)
    health = Health(12, 3.0, 12.5, sources, sinks, ("infer",), {"cpu": 51.5})
    for _ in range(3):
        metrics.observe(_result({"class_map": class_map}, health))
    values = _values(metrics.exposition().decode())
    camera = f"source={CAMERA.name}"
    assert values[f"aselect_frames_total{{{camera}}}"] == 7
    assert values[f"aselect_frames_dropped_total{{{camera}}}"] == 3
    assert values[f"aselect_frames_repeated_total{{{camera}}}"] == 4
    assert values[f"aselect_reconnects_total{{{camera}}}"] == 2
    assert values[f"aselect_source_up{{{camera}}}"] == 1
    assert values["aselect_source_up{source=door}"] == 0
    assert values["aselect_sink_results_total{sink=video.mp4}"] == 6
    assert values["aselect_sink_dropped_total{sink=video.mp4}"] == 4
    assert values["aselect_sink_up{sink=video.mp4}"] == 0
    assert values["aselect_fps{}"] == 12.5
    assert values["aselect_stalled_stages{}"] == 1
    assert values["aselect_temperature_celsius{zone=cpu}"] == 51.5
    assert values[f"aselect_stage_seconds_count{{{camera},stage=infer}}"] == 3
    assert values[f"aselect_stage_seconds_sum{{{camera},stage=infer}}"] == pytest.approx(0.12)
    assert values[f"aselect_stage_seconds_bucket{{le=0.05,{camera},stage=infer}}"] == 3
    assert values[f"aselect_stage_seconds_bucket{{le=0.033,{camera},stage=infer}}"] == 0
    assert values[f"aselect_result_age_seconds_sum{{{camera}}}"] == pytest.approx(0.15)
    assert values[f"aselect_last_result_timestamp_seconds{{{camera}}}"] == 100.05
    shares = [values[f"aselect_class_area_ratio{{class={name},{camera}}}"] for name in ("dark", "middle", "bright")]
    assert shares == [0.25, 0, 0.75]


def test_a_source_that_falls_silent_is_not_up(seg_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot that says so would come with a result."""
    clock = [1000.0]
    monkeypatch.setattr("aselect_runtime.sinks.metrics.monotonic", lambda: clock[0])
    metrics = Metrics(Manifest.load(seg_model / "manifest.json"))
    health = Health(fps=12.5, sources=(SourceHealth(CAMERA.name, "live"), SourceHealth("door", "live")))
    metrics.observe(_result({"class_map": np.zeros((24, 32), np.uint8)}, health))
    for later, expected in ((14.0, (1, 0, 12.5)), (16.0, (0, 0, 0))):
        clock[0] = 1000 + later
        values = _values(metrics.exposition().decode())
        names = (f"aselect_source_up{{source={CAMERA.name}}}", "aselect_source_up{source=door}", "aselect_fps{}")
        assert tuple(values[name] for name in names) == expected


def test_the_videos_of_a_folder_count_as_their_input(seg_model: Path) -> None:
    metrics = Metrics(Manifest.load(seg_model / "manifest.json"))
    result = _result({"class_map": np.zeros((24, 32), np.uint8)}, Health(sources=(SourceHealth("videos", "live", 1),)))
    clip = replace(result.captured, source=SourceInfo("videos/a.mp4", fps=25))
    metrics.observe(replace(result, captured=clip))
    text = metrics.exposition().decode()
    assert _values(text)["aselect_source_up{source=videos}"] == 1
    assert "videos/a.mp4" not in text


def test_scores_of_a_classification(cls_model: Path) -> None:
    metrics = Metrics(Manifest.load(cls_model / "manifest.json"))
    metrics.observe(_result({"scores": np.array([0.25, 0, 0.75], np.float32)}))
    assert _values(metrics.exposition().decode())[f"aselect_class_score{{class=bright,source={CAMERA.name}}}"] == 0.75


def test_inputs_of_one_name_count_together(seg_model: Path) -> None:
    metrics = Metrics(Manifest.load(seg_model / "manifest.json"))
    sources = (SourceHealth("video.mp4", frames=2), SourceHealth("video.mp4", frames=3))
    metrics.observe(_result({"class_map": np.zeros((24, 32), np.uint8)}, Health(sources=sources)))
    assert _values(metrics.exposition().decode())["aselect_frames_total{source=video.mp4}"] == 5


@pytest.mark.parametrize("states", [("lost", "live"), ("live", "lost")])
def test_a_fault_shows_beside_another_of_the_same_printable_name(
    seg_model: Path, states: tuple[SourceState, SourceState]
) -> None:
    metrics = Metrics(Manifest.load(seg_model / "manifest.json"))
    sources = tuple(SourceHealth(CAMERA.name, state) for state in states)
    sinks = tuple(SinkHealth("mqtt://b/t", "working" if state == "live" else "failed") for state in states)
    metrics.observe(_result({"class_map": np.zeros((24, 32), np.uint8)}, Health(sources=sources, sinks=sinks)))
    values = _values(metrics.exposition().decode())
    assert values[f"aselect_source_up{{source={CAMERA.name}}}"] == 0
    assert values["aselect_sink_up{sink=mqtt://b/t}"] == 0


def test_two_runs_in_one_process_do_not_mix(seg_model: Path) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    first, second = Metrics(manifest), Metrics(manifest)
    first.observe(_result({"class_map": np.zeros((24, 32), np.uint8)}))
    assert b"camera" not in second.exposition()


def test_the_sink_serves_what_it_is_written(seg_model: Path, free_port: int) -> None:
    uri = f"metrics://127.0.0.1:{free_port}"
    manifest = Manifest.load(seg_model / "manifest.json")
    with open_sink(uri, manifest) as write:
        write(_result({"class_map": np.zeros((24, 32), np.uint8)}, Health(fps=8.0)))
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=10) as answer:
            assert "aselect_fps 8.0" in answer.read().decode()
        with pytest.raises(InputError, match="expected a free port"):
            _enter(uri, manifest)
    _enter(uri, manifest)  # the port is free again


@pytest.mark.parametrize(
    "uri", ["metrics://", "metrics://127.0.0.1", "metrics://h:0", "metrics://h:99999", "metrics://h:1/other"]
)
def test_unusable_addresses(seg_model: Path, uri: str) -> None:
    with pytest.raises(InputError, match=r"metrics://127\.0\.0\.1:9090"):
        _enter(uri, Manifest.load(seg_model / "manifest.json"))


def _enter(uri: str, manifest: Manifest) -> None:
    with open_sink(uri, manifest):
        pass
