"""A few damaged inputs of every kind; `make test-damaged` tries a thousand."""

from __future__ import annotations

from pathlib import Path

from aselect_runtime.sources import open_source
from tests.proof.damage import KINDS, damaged
from tests.proof.damaged import sound, steps, tried


def test_the_sound_inputs_are_used(tmp_path: Path) -> None:
    sound(tmp_path)
    with open_source(str(tmp_path / "video.mp4")) as source:
        assert len(list(source)) == 20
    for number, name in enumerate(KINDS):
        content = (tmp_path / name).read_bytes()
        assert damaged(content, number) == damaged(content, number)
        assert any(damaged(content, seed) != content for seed in range(9))


def test_none_of_thirty_ends_badly(tmp_path: Path) -> None:
    seen = steps(tmp_path, 30)
    assert "crashes 0, tracebacks 0, hangs 0" in seen.checks[0].seen


def test_a_fault_is_counted(tmp_path: Path) -> None:
    """A missing file of an input gives no AselectError, as a fault of the code would."""
    sound(tmp_path)
    (tmp_path / KINDS[1]).unlink()
    found = tried(tmp_path, 3)
    assert found[f"{KINDS[1]} 1: exit code 1"] == 1
    assert found["fine"] + found["refused"] == 2
