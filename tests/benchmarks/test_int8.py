"""The INT8 benchmark: its rows, and what it says of the goals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aselect_edge.bundle import load_bundle
from aselect_export.graph import trace, without_logits
from aselect_runtime.records import Task
from benchmarks.int8 import Effort, measure
from benchmarks.int8_amdahl import products_left_out
from benchmarks.int8_quantisers import make_rows
from benchmarks.int8_table import goals, write_docs
from tests.bundles import write_bundle

ROW = {"score": 0.5, "latency_ms": 30.0, "bytes": 250, "seconds": 20.0, "peak_mb": 600.0, "frames": 128}
TASK: dict[str, Any] = {
    "metric": "CamVid test mIoU",
    "images": 233,
    "whole_split": True,
    "rows": {
        "fp32": {"score": 0.502, "latency_ms": 60.0, "bytes": 1000},
        "ours": ROW,
        "ort_default": ROW | {"score": 0.4},
    },
    "skipped": {"nncf": "needs --peers"},
    "frames_per_second": {"fp32": 1e3 / 60, "ours": 1e3 / 30},
    "amdahl": {"share_of_products": 0.8, "latency_ratio_limit": 0.425},
    "export": {"seconds": 60.0, "metric": "miou", "val_fp32": 0.6, "val_int8": 0.599, "given_back": ["head.0"]},
}
XL = {"blocks": 10, "latency_ms": {"fp32": 200.0, "ours": 100.0}, "bytes": {"fp32": 1000, "ours": 260}}
RECORD: dict[str, Any] = {
    "date": "2026-01-01",
    "machine": "2 cores",
    "onnxruntime": "1.0",
    "threads": 2,
    "tasks": {"seg": TASK},
    "skipped": {"cls": "cub40 test top-1: no bundle ships"},
    "xl": XL,
}


def test_a_task_without_a_bundle_is_named(tmp_path: Path) -> None:
    found = measure(Effort(4, 1, None, peers=False), {}, tmp_path, tmp_path)
    assert found["tasks"] == {}
    assert found["skipped"]["cls"] == "cub40 test top-1: no bundle ships"


@pytest.mark.parametrize(("task", "last"), [("seg", "logits"), ("cls", "head.body.classify")])
def test_the_last_layer_is_not_counted_as_a_product_of_int8(task: Task, last: str, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "bundle", task))
    fp32 = tmp_path / "fp32.onnx"
    without_logits(trace(bundle.deployed(), task, 1, bundle.record.imgsz, tmp_path)).write(fp32)
    left_out = products_left_out(fp32)
    assert any(name.startswith(last) for name in left_out)
    assert not "block0.mlp.in.MatMul/MatMulAddFusion_kernel_time".startswith(left_out)
    assert "block0.attention.scores.MatMul_kernel_time".startswith(left_out)


def test_a_quantiser_that_fails_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "fp32.onnx").write_bytes(b"not a graph")
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    rows, skipped = make_rows(tmp_path / "fp32.onnx", frames, tmp_path, peers=False, names=("ort_default",))
    assert rows == {}
    assert "Error" in skipped["ort_default"] or "INVALID" in skipped["ort_default"]


def changed(**changes: Any) -> dict[str, Any]:
    """RECORD with other figures in the rows of its task: `row__figure=value`."""
    record = copy.deepcopy(RECORD)
    for place, value in changes.items():
        row, figure = place.split("__")
        record["tasks"]["seg"]["rows"][row][figure] = value
    return record


@pytest.mark.parametrize(
    ("record", "met"),
    [
        (RECORD, [True, True, True, True, True]),
        (changed(ours__score=0.498), [False, True, True, True, True]),
        (changed(ort_default__score=0.5), [None, True, True, True, True]),  # the defaults lose as little
        (changed(ours__latency_ms=32.0), [True, False, True, True, True]),
        (changed(ours__bytes=301), [True, True, False, True, True]),
        (changed(ours__peak_mb=2001.0), [True, True, True, False, True]),
        (changed(ours__frames=16), [True, True, True, None, True]),
        (RECORD | {"xl": XL | {"latency_ms": {"fp32": 170.0, "ours": 100.0}}}, [True, True, True, True, False]),
        (RECORD | {"xl": XL | {"blocks": 1}}, [True, True, True, True, None]),
    ],
)
def test_goals_are_judged_by_the_figures(record: dict[str, Any], met: list[bool | None]) -> None:
    assert [goal.met for goal in goals(record)] == met


def test_part_of_the_test_split_shows_no_accuracy() -> None:
    record = copy.deepcopy(RECORD)
    record["tasks"]["seg"]["whole_split"] = False
    assert next(iter(goals(record))).met is None


def test_the_page_holds_the_figures_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "int8.md"
    marks = [
        f"<!-- {place}: python -m benchmarks.int8 --write -->\nold\n<!-- end -->\n" for place in ("figures", "peers")
    ]
    page.write_text(f"# INT8\n{marks[0]}between\n{marks[1]}after\n")
    for name, date in (("int8", "2026-01-01"), ("int8-peers", "2025-01-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps(RECORD | {"date": date}))
    write_docs(page, tmp_path)
    text = page.read_text()
    assert text.index("2026-01-01") < text.index("between") < text.index("2025-01-01")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| ours, every layer | 50.00 % | 0.20 | 0.50 | 0.250 | 20 s | 600 MB | 128 |" in text
    assert "| NNCF | needs --peers |" in text
    assert "- cub40 test top-1: no bundle ships." in text
    assert "| CamVid test mIoU: at most 0.30 of FP32's bytes | 0.250 | met |" in text
