"""Training and evaluation that several processes share: the result of one process, files of the first one only."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aselect_edge.evaluation.measuring import ClassificationScore
from aselect_edge.team import Team
from aselect_edge.training.checkpoint import CHECKPOINT
from aselect_edge.training.rows import _share
from aselect_runtime.records import Noise, Selection, Tap
from tests import forked

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN, STEP = ["-m", "aselect_edge.commands.train"], ["-m", "tests.edge.shared_step"]
LONGER = ["--head", "conv", "--samples", "250"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, street_data: Path) -> list[str]:
    noise, path = Noise(alpha=0.99, sigma=0.14, model_timestep=50.0), tmp_path_factory.mktemp("given") / "s.json"
    Selection(backbone=str(backbone_folder), noise=noise, tap=Tap.parse("1.query"), strategy="manual").save(path)
    words = ["--backbone", backbone_folder, "--selection", path, "--data", street_data, "--imgsz", "32x48"]
    return [*map(str, words), "--samples", "50", "--batch", "5"]


@pytest.fixture(scope="module")
def longer(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains with the options `LONGER`."""
    out = tmp_path_factory.mktemp("longer") / "one"
    _run(*TRAIN, *given, *LONGER, "--out", out)
    return out


def _run(*words: str | Path) -> str:
    done = forked.run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _shared(port: int, *words: str | Path) -> str:
    """What two processes say."""
    both = forked.shared(words, port)
    assert [done.returncode for done in both] == [0, 0], both
    return "".join(done.stdout for done in both)


def _torchrun(*words: str | Path) -> str:
    command, environment = list(map(str, [*TORCHRUN, *words])), {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _curve(bundle: Path) -> list[list[float]]:
    with (bundle.with_name(f"{bundle.name}.training") / "curve.csv").open() as stream:
        return [[float(value) for value in row] for row in list(csv.reader(stream))[1:]]


def _same_curves(one: Path, other: Path) -> None:
    """Losses are the same; val's figure may differ by the few pixels whose best two classes are close.

    Weights are not compared one by one: where a gradient is zero but for rounding (a key's bias), Adam divides it by
    its own size, so that rounding alone moves the weight. Gradients are compared above.
    """
    ours, theirs = np.array(_curve(one)), np.array(_curve(other))
    np.testing.assert_allclose(ours[:, :2], theirs[:, :2], rtol=5e-3)
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], atol=0.02)


@pytest.mark.parametrize(("what", "step"), [("all", 0), ("lora:2", 1)])
def test_a_shared_step_has_the_gradients_of_one_process(
    street_data: Path, tmp_path: Path, free_port: int, what: str, step: int
) -> None:
    """With five frames and three windows for two processes, an overlap loss, BatchNorm, dropout and denoising."""
    _run(*STEP, tmp_path / "one", street_data, what, str(step))
    _shared(free_port, *STEP, tmp_path / "two", street_data, what, str(step))
    alone, shared = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert alone.keys() == shared.keys()
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    assert largest > 1e-3
    for name, gradient in alone.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-3, atol=1e-6 * largest, msg=name)


@pytest.mark.parametrize("options", [["--head", "conv"], ["--head", "conv", "--finetune"]], ids=["head", "whole"])
def test_two_processes_train_the_bundle_of_one(
    given: list[str], tmp_path: Path, free_port: int, options: list[str]
) -> None:
    """With torchrun itself too: the other tests give two processes the variables that it gives them."""
    words = [*TRAIN, *given, *options, "--out"]
    _run(*words, tmp_path / "one")
    two = tmp_path / "two"
    said = _torchrun(*words, two) if "--finetune" in options else _shared(free_port, *words, two)
    assert said.count("val miou") == 1  # only one of them reports
    _same_curves(tmp_path / "two", tmp_path / "one")
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_in_one_line_and_the_run_resumes(
    given: list[str], longer: Path, tmp_path: Path, free_port: int, killed: int
) -> None:
    words: list[str | Path] = [*TRAIN, *given, *LONGER, "--out", tmp_path / "two"]
    checkpoint = tmp_path / "two.training" / CHECKPOINT
    with forked.team(words, free_port) as pair:
        while not checkpoint.exists() and all(process.returncode is None for process in pair):
            time.sleep(0.01)
        pair[killed].send_signal(signal.SIGKILL)
        _, said = pair[1 - killed].communicate(timeout=120)
    assert pair[1 - killed].returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert lines[0].startswith(f"error: process {1 - killed} of 2: got no answer from the others (")
    assert "Traceback" not in said
    before = checkpoint.read_bytes()
    assert len(before) > 0
    assert not (tmp_path / "two").exists()
    if killed:  # resumed by two processes, or by one
        _shared(free_port, *words)
    else:
        _run(*words)
    _same_curves(tmp_path / "two", longer)


def test_more_processes_than_frames_are_refused(given: list[str], tmp_path: Path, free_port: int) -> None:
    words = [*TRAIN, *given, "--batch", "1", "--out", str(tmp_path / "two")]
    both = forked.shared(words, free_port)
    assert {done.returncode for done in both} == {1}
    told = "error: got 2 processes for a batch of 1, expected at most one for each of its frames"
    assert all(told in done.stderr for done in both)


@pytest.mark.parametrize("kind", ["bundle", "export"])
def test_two_processes_evaluate_like_one(
    request: pytest.FixtureRequest, street_data: Path, free_port: int, kind: str
) -> None:
    model: Any = request.getfixturevalue("seg_bundle" if kind == "bundle" else "seg_export")
    model = model if kind == "bundle" else model.folder
    words = ["-m", "aselect_export.commands.evaluate", model, "--data", street_data, "--split", "val", "--json"]
    assert json.loads(_shared(free_port, *words)) == json.loads(_run(*words))


class _Sums(Team):
    """The second of two processes, where the first one counted `other`."""

    other: list[torch.Tensor]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self.other.pop(0)


def test_the_top_5_of_two_processes_is_that_of_all_their_images() -> None:
    class Data:
        classes = tuple(range(7))

    rng = np.random.default_rng(0)
    scores, labels = rng.random((9, 7)), rng.integers(7, size=9)
    whole, first, second = (ClassificationScore(Data()) for _ in range(3))  # type: ignore[arg-type]
    for index in range(9):
        whole.add(scores[index], int(labels[index]))
        (first if index < 4 else second).add(scores[index], int(labels[index]))
    team = _Sums(1, 2)
    kept: list[torch.Tensor] = []

    class Record(Team):
        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.clone())
            return tensor

    first.together(Record(0, 2))
    object.__setattr__(team, "other", kept)
    second.together(team)
    assert second.figures().others == whole.figures().others
    expected = np.mean([label in np.argsort(-row)[:5] for row, label in zip(scores, labels, strict=True)])
    assert second.figures().others["top5"] == pytest.approx(expected)
    assert second.figures().images == 9


@pytest.mark.parametrize(("size", "count"), [(2, 1), (2, 5), (3, 2), (4, 32)])
def test_the_writer_of_features_has_a_share_of_every_chunk(size: int, count: int) -> None:
    parts = [_share(Team(rank, size), range(10, 10 + count)) for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(10, 10 + count))
    assert len(parts[0]) > 0
