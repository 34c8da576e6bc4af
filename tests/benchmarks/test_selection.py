"""The comparison of strategies: a small real run, resumed, and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_edge.backbones import load_backbone
from aselect_edge.selection import STRATEGIES
from benchmarks import selection_seeds
from benchmarks.selection import measure
from benchmarks.selection_seeds import Job, Runs
from benchmarks.selection_table import cost, picks

JOB = Job("camvid", "seg", (32, 32), 3, 3)


@pytest.mark.parametrize("busy", [False, True])
def test_seeds_are_run_once_and_a_busy_machine_gives_no_times(
    busy: bool, street_data: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "camvid").symlink_to(street_data)
    monkeypatch.setenv("ASELECT_DATA", str(tmp_path / "data"))
    plan = Runs(load_backbone(str(backbone_folder)), "digest", JOB, 2, 2, busy, tmp_path / "work")
    found = measure(plan, 2)
    assert set(found["rows"]) == set(STRATEGIES)
    for row in found["rows"].values():
        assert row["regret"]["mean"] >= 0
        assert ("seconds" in row) != busy
    assert found["rows"]["exhaustive"]["regret"]["mean"] == 0
    tables = picks({"camvid": found | {"date": "2026-01-01", "machine": "2 cores"}}) + cost({"camvid": found})
    assert ("| seconds |" in tables) != busy
    assert ("--busy" in tables) == busy

    def fail(*_: object) -> None:
        raise AssertionError("a complete seed was run again")

    monkeypatch.setattr(selection_seeds, "run_seed", fail)
    assert plan.run(street_data, 0)["rows"]["hfr"]["accuracy"] >= 0
    with pytest.raises(AssertionError, match="run again"):  # times of an idle and of a busy machine are not mixed
        Runs(plan.backbone, "digest", JOB, 2, 2, not busy, plan.work).run(street_data, 0)
