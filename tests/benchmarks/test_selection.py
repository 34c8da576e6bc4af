"""The comparison of strategies: a small real run, resumed, and its tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aselect_edge.backbones import load_backbone
from aselect_edge.selection import STRATEGIES, Request, select_tap
from aselect_runtime.records import Selection, Tap
from benchmarks import selection_seeds
from benchmarks.selection import measure
from benchmarks.selection_seeds import Job, Runs, request_of, rows_of, run_seed, scores, table_of
from benchmarks.selection_table import cost, picks
from tests.streets import write_streets

JOB = Job("camvid", "seg", (32, 32), 3, 3, 3)


@pytest.fixture
def camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of drawn streets whose test split is a copy of val."""
    monkeypatch.setenv("ASELECT_DATA", str(tmp_path / "data"))
    folder = write_streets(tmp_path / "data" / "camvid", train=4)
    shutil.copytree(folder / "val", folder / "test")
    return folder


@pytest.mark.parametrize("busy", [False, True])
def test_seeds_are_run_once_and_a_busy_machine_gives_no_times(
    busy: bool, camvid: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Runs(load_backbone(str(backbone_folder)), "digest", JOB, 2, 2, busy, tmp_path / "work")
    found = measure(plan, 2)
    assert set(found["rows"]) == set(STRATEGIES)
    for row in found["rows"].values():
        assert row["regret"]["mean"] >= 0, "test is a copy of val here, of which the search finds the best"
        assert ("seconds" in row) != busy
    tables = picks({"camvid": found | {"date": "2026-01-01", "machine": "2 cores"}}) + cost({"camvid": found})
    assert ("| seconds |" in tables) != busy
    assert ("--busy" in tables) == busy

    def fail(*_: object) -> None:
        raise AssertionError("a complete seed was run again")

    monkeypatch.setattr(selection_seeds, "run_seed", fail)
    assert plan.run(camvid, 0)["rows"]["hfr"]["accuracy"] >= 0
    with pytest.raises(AssertionError, match="run again"):  # times of an idle and of a busy machine are not mixed
        Runs(plan.backbone, "digest", JOB, 2, 2, not busy, plan.work).run(camvid, 0)


def test_the_choices_are_compared_on_test_which_has_no_part_in_them(camvid: Path, backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    same = run_seed(backbone, JOB, camvid, 0, 2, 2)
    search = select_tap(backbone, camvid, request_of("exhaustive", backbone, JOB, 0, 2, 2))
    assert table_of(same) == scores(search), "the heads of the search, on a copy of its own images"
    for path in (camvid / "test" / "labels").iterdir():
        with Image.open(path) as label:
            moved = (np.asarray(label) + 1) % 11
        Image.fromarray(moved).save(path)
    other = run_seed(backbone, JOB, camvid, 0, 2, 2)
    assert other["picks"] == same["picks"]
    assert table_of(other) != table_of(same)


def test_a_regret_is_the_distance_to_the_choice_of_the_search_not_to_the_best(backbone_folder: Path) -> None:
    drawn = select_tap(str(backbone_folder), None, Request("uniform"))

    def chosen(tap: str, timestep: float) -> Selection:
        noise = drawn.noise.model_copy(update={"model_timestep": timestep})
        return drawn.model_copy(update={"tap": Tap.parse(tap), "noise": noise})

    accuracy = {("0.mlp", 0.0): 0.5, ("1.mlp", 0.0): 0.3, ("0.mlp", 9.0): 0.2, ("1.mlp", 9.0): 0.4}
    picks = {"exhaustive": ("1.mlp", 9.0), "probe": ("0.mlp", 0.0), "hfr": ("0.mlp", 9.0), "uniform": ("0.mlp", 0.0)}
    rows = rows_of({name: chosen(*pick) for name, pick in picks.items()}, accuracy)
    regrets = {name: (row["regret"], row["regret of its level"]) for name, row in rows.items()}
    assert regrets["exhaustive"] == (0, 0)
    assert regrets["probe"] == pytest.approx((-0.1, -0.1)), "better than what the search chose"
    assert regrets["hfr"] == pytest.approx((0.2, 0)), "another tap of the same level"
    assert regrets["uniform"] == pytest.approx((0.4 - 0.35, 0.4 - 0.45)), "of all candidates, not of the one drawn"
