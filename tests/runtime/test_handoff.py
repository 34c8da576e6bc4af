"""Handing items between threads."""

from __future__ import annotations

import time
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.pipeline.handoff import Handoff


@given(items=st.lists(st.integers(), max_size=30), depth=st.integers(1, 5))
def test_delivers_everything_in_order(items: list[int], depth: int) -> None:
    handoff: Handoff[int] = Handoff(depth)

    def produce() -> None:
        for item in items:
            handoff.put(item)
        handoff.close()

    thread = Thread(target=produce)
    thread.start()
    assert list(handoff) == items
    thread.join()
    assert handoff.dropped == 0


@given(count=st.integers(1, 20), depth=st.integers(1, 5))
def test_newest_wins_keeps_only_the_latest_and_counts_the_rest(count: int, depth: int) -> None:
    handoff: Handoff[int] = Handoff(depth)
    for item in range(count):
        assert handoff.put(item, newest_wins=True)
    handoff.close()
    assert list(handoff) == list(range(count))[-depth:]
    assert handoff.dropped == max(0, count - depth)


@given(firm=st.integers(0, 5), live=st.integers(1, 5))
def test_newest_wins_never_drops_what_must_be_delivered(firm: int, live: int) -> None:
    handoff: Handoff[str] = Handoff(6)
    for number in range(firm):
        handoff.put(f"video {number}")
    for number in range(live):
        handoff.put(f"camera {number}", newest_wins=True)
    handoff.close()
    kept = [f"camera {number}" for number in range(live)][-(6 - firm) :]
    assert list(handoff) == [*(f"video {number}" for number in range(firm)), *kept]
    assert handoff.dropped == live - len(kept)


def test_a_live_item_never_waits_where_there_is_no_room_to_make() -> None:
    handoff: Handoff[str] = Handoff(1)
    handoff.put("video")
    assert handoff.put("camera", newest_wins=True)
    handoff.close()
    assert list(handoff) == ["video"]
    assert handoff.dropped == 1


def test_take_gives_up_in_time() -> None:
    handoff: Handoff[int] = Handoff(1)
    with pytest.raises(TimeoutError):
        handoff.take(0.01)
    handoff.close()
    assert handoff.take(0.01) is None


def test_error_arrives_after_the_items() -> None:
    handoff: Handoff[int] = Handoff(2)
    handoff.put(1)
    handoff.close(ValueError("broken"))
    items = iter(handoff)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_abandon_wakes_a_waiting_producer() -> None:
    handoff: Handoff[int] = Handoff(1)
    handoff.put(1)
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(handoff.put(2)))
    thread.start()
    time.sleep(0.02)
    handoff.abandon()
    thread.join(timeout=5)
    assert answers == [False]
