"""Large scans: interrupted ones go on where they stood, and several processes give one answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.selection import Request, Settings, resume, select_tap
from aselect_edge.selection.resume import Store
from aselect_edge.team import Team
from aselect_runtime.records import Selection, Task
from tests import forked

TASKS: list[tuple[str, Task]] = [
    *((strategy, "seg") for strategy in ("hfr", "hfr-signal", "fixed", "probe", "exhaustive")),
    *((strategy, "cls") for strategy in ("probe", "exhaustive")),
]
REQUEST = Request("hfr", images=6, imgsz=(24, 32), timesteps=[0, 100, 600], batch=2, settings=Settings(steps=5))


def _comparable(selection: Selection) -> Selection:
    """Without the seconds, which differ from run to run."""
    assert selection.cost is not None
    return selection.model_copy(update={"cost": selection.cost.model_copy(update={"seconds": 0.0})})


def _stop_at(share: float) -> Callable[[str, float], None]:
    def report(_what: str, done: float) -> None:
        if done >= share:
            raise KeyboardInterrupt

    return report


@pytest.fixture(autouse=True)
def _write_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "EVERY", 0.0)


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, darker and brighter ones, in train and val."""
    folder, rng = tmp_path_factory.mktemp("greys"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name, least in (("bright", 150), ("dark", 0)):
            (folder / split / name).mkdir(parents=True)
            for index in range(3):
                image = rng.integers(least, least + 100, (24, 32, 3), np.uint8)
                cv2.imwrite(str(folder / split / name / f"{index}.png"), image)
    return folder


@pytest.fixture
def asked(request: pytest.FixtureRequest, street_data: Path, greys: Path) -> tuple[Request, Path]:
    """A request, and the folder of images."""
    strategy, task = request.param
    return replace(REQUEST, strategy=strategy, task=task), greys if task == "cls" else street_data


@pytest.mark.parametrize("asked", TASKS, indirect=True)
def test_an_interrupted_scan_goes_on(backbone_folder: Path, asked: tuple[Request, Path], tmp_path: Path) -> None:
    (request, data), out = asked, tmp_path / "s.json"
    whole = select_tap(str(backbone_folder), data, request)
    with pytest.raises(KeyboardInterrupt):
        select_tap(str(backbone_folder), data, request, resume=out, progress=_stop_at(0.5))
    assert [path.name for path in tmp_path.iterdir()] == [".s.json.scan"]
    shares: list[float] = []
    resumed = select_tap(
        str(backbone_folder), data, request, resume=out, progress=lambda _, share: shares.append(share)
    )
    assert _comparable(resumed) == _comparable(whole)
    assert min(shares) > 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, images=4),
        replace(REQUEST, seed=1),
        replace(REQUEST, blocks=2),
        replace(REQUEST, imgsz=(32, 32)),
        replace(REQUEST, timesteps=[0, 100, 601]),
        replace(REQUEST, strategy="hfr-signal"),
    ],
)
def test_another_scan_starts_over(backbone_folder: Path, street_data: Path, tmp_path: Path, other: Request) -> None:
    out = tmp_path / "s.json"
    with pytest.raises(KeyboardInterrupt):
        select_tap(str(backbone_folder), street_data, REQUEST, resume=out, progress=_stop_at(0.5))
    shares: list[float] = []
    select_tap(str(backbone_folder), street_data, other, resume=out, progress=lambda _, share: shares.append(share))
    assert shares[0] == pytest.approx(1 / len(shares))


def test_a_file_that_is_no_scan_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "x.scan"
    path.write_bytes(b"nonsense")
    store = Store(path, "key")
    assert store.load() == {}
    store.keep({"sums": torch.ones(2)})
    assert store.load()["sums"].tolist() == [1, 1]
    assert Store(path, "another").load() == {}


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 5), (3, 3), (4, 2)])
def test_a_team_shares_all_the_work_evenly(size: int, count: int) -> None:
    parts = [Team(rank, size).share(range(count)) for rank in range(size)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@dataclass(frozen=True)
class Threads(Team):
    """A team of threads, for strategies whose sharing needs no processes of their own to be seen."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    given: dict[int, torch.Tensor] = field(default_factory=dict)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.given[self.rank] = tensor
        self.barrier.wait(timeout=60)
        total = torch.stack([self.given[rank] for rank in range(self.size)]).sum(0)
        self.barrier.wait(timeout=60)
        return total


def _same_answer(together: Selection, alone: Selection) -> None:
    assert (together.tap, together.noise, together.data) == (alone.tap, alone.noise, alone.data)
    assert [(score.noise, score.tap) for score in together.scores] == [(s.noise, s.tap) for s in alone.scores]
    ours, theirs = ([score.value for score in part.scores] for part in (together, alone))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert together.cost is not None
    assert alone.cost is not None
    assert together.cost.forward_passes == alone.cost.forward_passes


@pytest.mark.parametrize("asked", [*TASKS, ("hfr-adaptive", "seg")], indirect=True)
def test_a_team_gives_the_answer_of_one(backbone_folder: Path, asked: tuple[Request, Path]) -> None:
    request, data = replace(asked[0], images=5), asked[1]
    alone = select_tap(str(backbone_folder), data, request)
    barrier, given = threading.Barrier(2), dict[int, torch.Tensor]()
    with ThreadPoolExecutor(2) as pool:
        teams = [Threads(rank, 2, barrier, given) for rank in range(2)]
        found = list(pool.map(lambda team: select_tap(str(backbone_folder), data, request, team=team), teams))
    assert _comparable(found[0]) == _comparable(found[1])
    _same_answer(found[0], alone)


def test_two_processes_give_the_answer_of_one(
    backbone_folder: Path, street_data: Path, tmp_path: Path, free_port: int
) -> None:
    """With torchrun's variables; that it gives these, test_train_scale shows."""
    alone = select_tap(str(backbone_folder), street_data, replace(REQUEST, strategy="hfr-signal", images=5))
    out = tmp_path / "s.json"
    arguments = [backbone_folder, "--data", street_data, "--out", out, "--images", 5, "--imgsz", "24x32"]
    arguments += ["--timesteps", "0,100,600", "--batch", 2, "--strategy", "hfr-signal"]
    both = forked.shared(["-m", "aselect_edge.commands.select", *map(str, arguments)], free_port)
    assert [(done.returncode, done.stdout) for done in both] == [(0, "")] * 2, both
    assert [done.stderr.splitlines().count(str(out)) for done in both] == [1, 0]  # only one of them reports
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.features.png", "s.json", "s.png"]
    _same_answer(Selection.load(out), alone)
