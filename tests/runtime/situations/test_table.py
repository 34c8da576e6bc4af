"""Every situation is right or is answered by one line that says what to do; none is wrong.

pytest -q -s -n0 tests/runtime/situations prints the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from aselect_runtime.records import Resize
from tests.runtime.situations import containers, environments, folders, names, networks, outputs
from tests.runtime.situations.case import RIGHT, TOLD, Case, Place, outcome
from tests.runtime.situations.commands import Commands

CASES = [
    Case(f"{module.__name__.rpartition('.')[2]}: {name}", make)
    for module in (containers, names, folders, networks, outputs, environments)
    for name, make in module.CASES.items()
]


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as started:
        yield started


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {
        "seg": write_model(folder / "seg"),
        "cls": write_model(folder / "cls", "cls"),
        "batch": write_model(folder / "batch", batch=4),
        "letterbox": write_model(folder / "letterbox", resize=Resize(mode="letterbox")),
    }


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    parts = ", ".join(f"{what} {counted[what]}" for what in (RIGHT, TOLD, "wrong"))
    print(f"\nsituations: tried {sum(counted.values())}, {parts}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_right_or_told_in_one_line(
    case: Case, tmp_path: Path, models: Mapping[str, Path], commands: Commands, tally: Counter[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    what = "wrong"
    try:
        what = outcome(case, Place(folder, models), commands)
    except pytest.skip.Exception:
        what = "skipped"
        raise
    finally:
        if what != "skipped":
            tally[what] += 1


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
