"""The CPU image and its compose file cannot be built here; what they name is compared with the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from aselect_runtime.records import Task
from tests.runtime.manifests import small_manifest

metrics = pytest.importorskip("aselect_runtime.sinks.metrics")

DOCKER = Path(__file__).parents[2] / "docker"
IMAGE = (DOCKER / "Dockerfile.cpu").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text(encoding="utf-8"))["services"]


def metric_names() -> set[str]:
    """Every sample's name of a run of either task, as Prometheus would store it."""
    names: set[str] = set()
    task: Task
    for task in ("seg", "cls"):
        registry = metrics.Metrics(small_manifest(task)).registry
        for family in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names


def test_the_dashboard_asks_for_figures_that_a_run_has() -> None:
    dashboard = json.loads((DOCKER / "grafana/aselect.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"aselect_\w+", target["expr"])
    }
    assert len(asked) >= 12
    assert asked <= metric_names()
    sources = yaml.safe_load((DOCKER / "grafana/datasource.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {sources[0]["uid"]}


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads((DOCKER / "grafana/aselect.json").read_text())["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own


def test_what_the_services_mount_and_call_is_there() -> None:
    for service in COMPOSE.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("${") or (DOCKER / source).exists(), volume
        for needed in service.get("depends_on", ()):
            assert needed in COMPOSE
    scraped = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    (target,) = (target.split(":") for target in scraped)
    assert target[0] in COMPOSE
    assert f"--output=metrics://0.0.0.0:{target[1]}?host={target[0]}" in COMPOSE["run"]["command"]
    assert COMPOSE["run"]["command"][1].startswith("rtsp://camera:")


def test_nothing_is_open_to_the_network_and_nothing_runs_as_root() -> None:
    for service in COMPOSE.values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))
    users = re.findall(r"^USER (\S+)", IMAGE, re.MULTILINE)
    assert users
    assert "root" not in users
    assert COMPOSE["run"]["cap_drop"] == ["ALL"]


def test_the_image_is_healthy_only_while_sources_deliver() -> None:
    (code,) = re.findall(r'CMD \["python", "-c", "(.*?)"\]', IMAGE.replace("\\\n", ""))
    assert "http://127.0.0.1:9090/metrics" in code
    pattern = re.search(r"r'(.*?)'", code.replace("\\\\", "\\"))
    assert pattern
    figures = metrics.Metrics(small_manifest())
    text = (
        figures.exposition().decode()
        + 'aselect_source_up{source="rtsp://a/1"} 1.0\naselect_source_up{source="b"} 0.0\n'
    )
    assert re.findall(pattern[1], text, re.MULTILINE)[-2:] == ["1.0", "0.0"]


def test_the_extras_are_the_packages() -> None:
    pyproject = (DOCKER.parent / "runtime/pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"/src/runtime\[([\w,]+)\]", IMAGE)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
