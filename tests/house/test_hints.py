"""What the commands tell a newcomer: budgets, threads, the next command, and advice that exists."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.commands.select import select
from aselect_edge.commands.threads import busy, use_threads
from aselect_edge.commands.train import train
from aselect_edge.selection.strategies import STRATEGIES
from aselect_edge.training import RECIPES
from aselect_export import evaluate
from aselect_export.commands.export import export
from aselect_runtime import open_model
from aselect_runtime.engines import add_engines
from aselect_runtime.errors import InputError
from aselect_runtime.processor import cpu_quota, physical_cores
from aselect_runtime.scenes import Street
from tests.bundles import command


def page_of(command: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        command.verb()(["--help"], prog_name="aselect")  # type: ignore[attr-defined]
    return " ".join(capsys.readouterr().out.split())


def test_the_help_shows_the_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    shown = page_of(train, capsys)
    seg, cls = RECIPES["seg"], RECIPES["cls"]
    for option, name in (("samples", "samples"), ("batch", "batch"), ("lr", "learning_rate")):
        (line,) = re.findall(rf"--{option} \w+ (.*?)if left out", shown)
        assert f"seg {getattr(seg, name):g}" in line
        assert f"cls {getattr(cls, name):g}" in line
    (line,) = re.findall(r"--images \w+ (.*?)if left out", page_of(select, capsys))
    assert "64, with labels 256" in line
    for entry in STRATEGIES.values():
        assert entry.images == (256 if entry.labels else 64)


def test_threads_are_the_cores_unless_something_else_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        use_threads(None)
        assert torch.get_num_threads() == physical_cores()
        use_threads(1)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        use_threads(None)
        assert torch.get_num_threads() == 1
        assert caplog.text == ""
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "cpus"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("250000 100000\n", 2), ("max 100000\n", None)]
)
def test_a_container_has_the_cpus_of_its_quota(tmp_path: Path, text: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cpus
    assert cpu_quota(tmp_path / "none") is None


def test_a_busy_machine_is_told_of() -> None:
    assert busy(1.4, 2) is None
    assert busy(1.5, 2) == "this machine is busy (a load of 1.5 on 2 cores); --threads 1 may be faster"
    assert busy(12.0, 16) == "this machine is busy (a load of 12.0 on 16 cores); --threads 4 may be faster"


def test_select_says_what_to_type_next(
    tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my selection.json"
    monkeypatch.setattr(sys, "argv", ["aselect-select", str(backbone_folder), "--out", str(out), "--task", "cls"])
    with pytest.raises(SystemExit):
        select()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"next: aselect-train --task cls --backbone {backbone_folder} --selection '{out}' --data DATA --out my-cls"
    )


def test_a_bundle_is_exported_before_it_runs(seg_bundle: Path) -> None:
    advice = rf"got a bundle, .*run aselect-export --model {seg_bundle} --out {seg_bundle}-exported and give that"
    with pytest.raises(InputError, match=advice):
        open_model(seg_bundle)
    with pytest.raises(InputError, match=advice):
        add_engines(seg_bundle, ["sm86"])


def test_data_of_the_other_task_are_named_with_advice_that_exists(seg_bundle: Path, tmp_path: Path) -> None:
    for name in ("jay", "wren"):
        (tmp_path / "test" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "test" / name / "a.png"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"got labels of the task cls .*expected some of the model's task seg") as told:
        evaluate(seg_bundle, tmp_path)
    assert "take the task" not in str(told.value)
    assert told.value.parameters == ("data",)


@pytest.mark.parametrize("given", ["images", "video", "nothing"])
def test_export_suggests_an_input_that_is_there(
    given: str,
    seg_bundle: Path,
    street_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = tmp_path / "own video.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for seed in range(12):
        writer.write(Street(seed, 48, 64).frame(40)[0])
    writer.release()
    arguments, expected = {
        "images": (["--data", str(street_data)], f"{street_data}/val/images/0.png --output overlay.png"),
        "video": (["--data", str(video)], f"'{video}' --output overlay.mp4"),
        "nothing": ([], "synthetic://street --output demo.mp4"),  # the bundle's classes are those of the streets
    }[given]
    out = tmp_path / "out"
    shared = ["--model", str(seg_bundle), "--precision", "fp32", "--engine", "none", "--out", str(out)]
    assert command(export, monkeypatch, *shared, *arguments) == 0
    assert f"next: aselect-run {out} {expected}\n" in capsys.readouterr().out
