"""What the commands tell a newcomer: budgets, threads, the next command, and advice that exists."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.commands.distil import distil
from aselect_edge.commands.init import init
from aselect_edge.commands.select import select
from aselect_edge.commands.threads import busy, use_threads
from aselect_edge.commands.train import train
from aselect_edge.selection.strategies import STRATEGIES
from aselect_edge.training import RECIPES
from aselect_export import evaluate
from aselect_export.commands.evaluate import evaluate as evaluate_command
from aselect_export.commands.export import export
from aselect_runtime import open_model
from aselect_runtime.engines import add_engines
from aselect_runtime.errors import InputError
from aselect_runtime.processor import compute_threads, cpu_quota, physical_cores
from aselect_runtime.scenes import Street
from aselect_runtime.sessions.openvino import available as openvino_is_available
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


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An idle machine without OMP_NUM_THREADS, and torch as it was afterwards."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is restored, whatever a command sets
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("own_threads")
def test_threads_are_the_cores_by_default(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_threads(None)
    assert torch.get_num_threads() == compute_threads() == physical_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert compute_threads() == 3
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert compute_threads() == physical_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_threads(None)
    assert torch.get_num_threads() == 1
    assert caplog.text == ""


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        (init, ["none"]),
        (select, ["none", "--strategy", "hfr", "--data", "none"]),
        (train, ["--backbone", "none", "--selection", "none", "--data", "none", "--out", "out"]),
        (distil, ["none", "--data", "none", "--out", "out"]),
        (export, ["--model", "none"]),
        (evaluate_command, ["none", "--data", "none"]),
    ],
)
def test_threads_of_a_command_are_those_of_every_library(
    verb: Callable[[], None], arguments: list[str], seg_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked in the sessions that are opened afterwards: the commands fail, because their files are missing."""
    torch.set_num_threads(2)
    assert command(verb, monkeypatch, *arguments, "--threads", "1") == 1
    assert torch.get_num_threads() == 1
    _, session = open_model(seg_model, "cpu")
    assert session._session.get_session_options().intra_op_num_threads == 1  # type: ignore[attr-defined]
    session.close()
    if openvino_is_available():
        _, session = open_model(seg_model, "openvino")
        assert session._model.get_property("INFERENCE_NUM_THREADS") == 1  # type: ignore[attr-defined]
        session.close()


@pytest.mark.parametrize(
    ("text", "cpus"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("250000 100000\n", 2), ("max 100000\n", None)]
)
def test_a_container_has_the_cpus_of_its_quota(tmp_path: Path, text: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    (tmp_path / "own").write_text("0::/\n")
    assert cpu_quota(tmp_path, tmp_path / "own") == cpus
    assert cpu_quota(tmp_path, tmp_path / "none") == cpus
    assert cpu_quota(tmp_path / "none", tmp_path / "own") is None


@pytest.mark.parametrize(
    ("service", "slice_", "cpus"), [("300000", "max", 3), ("300000", "200000", 2), ("max", "max", None)]
)
def test_a_service_has_the_cpus_of_its_group_and_of_those_above(
    tmp_path: Path, service: str, slice_: str, cpus: int | None
) -> None:
    """As systemd writes `CPUQuota=300%` of a service and of its slice."""
    own = tmp_path / "system.slice" / "camera.service"
    own.mkdir(parents=True)
    for folder, quota in ((own, service), (own.parent, slice_)):
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    (tmp_path / "own").write_text("1:name=systemd:/other\n0::/system.slice/camera.service\n")
    assert cpu_quota(tmp_path, tmp_path / "own") == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(200_000, 2), (50_000, 1), (-1, None)])
def test_older_kernels_have_the_quota_in_two_files(tmp_path: Path, quota: int, cpus: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path, tmp_path / "none") == cpus


def test_a_busy_machine_gives_advice() -> None:
    assert busy(1.4, 2) is None
    assert busy(1.5, 2) == "this machine is busy (a load of 1.5 on 2 cores); --threads 1 may be faster"
    assert busy(12.0, 16) == "this machine is busy (a load of 12.0 on 16 cores); --threads 4 may be faster"


def test_select_says_what_to_type_next(
    tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my selection.json"
    options = ["--family", "dit", "--imgsz", "32x32", "--label", "1"]
    asked = ["aselect-select", str(backbone_folder), "--out", str(out), "--task", "cls", *options]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit):
        select()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"next: aselect-train --task cls --backbone {backbone_folder} --selection '{out}' --data DATA "
        "--imgsz 32x32 --family dit --out my-cls"
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
    printed = capsys.readouterr().out
    assert f"next: aselect-run {out} {expected}\n" in printed
    assert f"model card: {out}/card.html\n" in printed
    assert re.search(r"\d\.\d\d MB  weights of the exported part and the head, in float32\n", printed)
