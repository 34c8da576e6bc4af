from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aselect_edge.data.spread import evenly

SIZES = st.integers(1, 500)


@given(SIZES, SIZES)
def test_indices_are_in_order_and_their_distances_differ_by_one_at_most(total: int, count: int) -> None:
    chosen = evenly(total, count)
    steps = [after - before for before, after in zip(chosen, [*chosen[1:], total], strict=True)]
    assert len(chosen) == count
    assert chosen[0] == 0
    assert max(steps) - min(steps) <= 1
    assert sum(steps) == total


def test_all_of_them_are_taken_once_each_if_as_many_are_asked_for() -> None:
    assert evenly(7, 7) == list(range(7))
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(2, 5) == [0, 0, 0, 1, 1]
