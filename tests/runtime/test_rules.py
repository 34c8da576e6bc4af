"""Rules: the file, the zones and the state machine, against counts and formulas of this file's own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.errors import RecordError
from aselect_runtime.frames import Frame
from aselect_runtime.rules import Event, Rule, Rules, Sight, Watch, Zone, load_rules
from aselect_runtime.rules.machine import Active, Cooling, Idle, Moment, State, advance, stop
from aselect_runtime.rules.zones import ZoneShares, rasterise
from tests.runtime.manifests import small_manifest

TEXT = """
[zones]
left = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]

[[rules]]
name = "bright on the left"
class = "bright"
zone = "left"
above = 0.5
for = 2
below = 0.25
below_for = 1.0
cooldown = 10
inputs = [0]

[[rules]]
name = "dark"
class = "dark"
above = 0.5
"""


def _rule(**changes: object) -> Rule:
    return Rule.model_validate({"name": "a", "class": "bright", "above": 0.5, **changes})


def _file(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_zones_and_rules(tmp_path: Path) -> None:
    rules = load_rules(_file(tmp_path, TEXT))
    first, second = rules.rules
    assert (first.class_name, first.zone, first.above, first.below) == ("bright", "left", 0.5, 0.25)
    assert (first.seconds, first.below_for, first.cooldown, first.inputs) == (2, 1, 10, (0,))
    assert (second.zone, second.below, second.seconds, second.cooldown) == (None, 0.4, 0, 0)
    assert rules.zones == (Zone(name="left", points=((0, 0), (0.5, 0), (0.5, 1), (0, 1))),)
    assert (rules.zones_of(0), rules.zones_of(1)) == (rules.zones, ())
    rules.check(small_manifest(), inputs=1)


def test_a_zone_that_no_rule_uses_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_rules(_file(tmp_path, TEXT))
    assert not caplog.text
    load_rules(_file(tmp_path, TEXT.replace('zone = "left"', "")))
    assert "rules.toml: no rule uses the zone left" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("above = 0.5", "above = 1.5"), "rules 1.above: Input should be less than 1, got 1.5"),
        (("above = 0.5", "above = '0.5'"), "rules 1.above: Input should be a valid number, got '0.5'"),
        (("above = 0.5", "above = nan"), "rules 1.above: Input should be"),
        (("below = 0.25", "below = 0.75"), "below = 0.75 with above = 0.5"),
        (("for = 2", "for = -1"), "rules 1.for: Input should be greater than or equal to 0"),
        (("for = 2", "four = 2"), "rules 1.four: Extra inputs are not permitted"),
        (("for = 2", "for = 2\nseconds = 3"), "rules 1.seconds: Extra inputs are not permitted"),
        (('class = "dark"', 'class_name = "dark"'), "rules 2.class: Field required"),
        (('class = "dark"', ""), "rules 2.class: Field required"),
        (('zone = "left"', 'zone = "right"'), "got the zone 'right', expected one of the file's (left)"),
        (('name = "dark"', 'name = "bright on the left"'), "the rule 'bright on the left' twice"),
        (('name = "dark"', 'name = "a\\nb"'), "expected printable characters"),
        (("[0.5, 1.0], [0.0, 1.0]", ""), "zones 1.points: Tuple should have at least 3 items"),
        (("[0.5, 1.0]", "[0.5, 1.1]"), "less than or equal to 1, got 1.1"),
        (("[0.5, 1.0], [0.0, 1.0]", "[0.2, 0.0]"), "smaller than 1/512 of the frame"),
        (("inputs = [0]", "inputs = []"), "rules 1.inputs: Tuple should have at least 1 item"),
        (("cooldown = 10", "cooldown = 10 s"), "not TOML"),
    ],
)
def test_a_fault_of_the_file_is_one_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = _file(tmp_path, TEXT.replace(*change, 1))
    with pytest.raises(RecordError) as caught:
        load_rules(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.parameters == ("rules",)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[zones]\n", b"rules = 3\n", b"zones = 3\n[[rules]]\n"])
def test_files_that_are_not_rules_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="expected a file of zones and rules"):
        load_rules(path)
    with pytest.raises(RecordError, match="unreadable"):
        load_rules(tmp_path)


@pytest.mark.parametrize(
    ("change", "task", "said"),
    [
        ({"class": "cat"}, "seg", "the class 'cat', expected one of the model's (dark, middle, bright)"),
        ({"inputs": [0, 2]}, "seg", "got input 2, expected an input of this run, 0 to 1"),
        ({"zone": "left"}, "cls", "got a zone and a classification model"),
    ],
)
def test_rules_that_do_not_suit_the_model(change: dict[str, object], task: str, said: str) -> None:
    zone = Zone(name="left", points=((0, 0), (1, 0), (0, 1)))
    rules = Rules(zones=(zone,), rules=(_rule(**change),))
    with pytest.raises(RecordError) as caught:
        rules.check(small_manifest("seg" if task == "seg" else "cls"), inputs=2)
    assert said in str(caught.value)


corners = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(st.lists(corners, min_size=3, max_size=3), st.integers(1, 12), st.integers(1, 12))
def test_a_triangle_holds_the_centres_on_one_side_of_all_its_sides(
    points: list[tuple[float, float]], height: int, width: int
) -> None:
    inside = rasterise(points, (height, width))
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) / width, (row + 0.5) / height
            sides = [
                (bx - ax) * (y - ay) - (by - ay) * (x - ax)
                for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True)
            ]
            if min(map(abs, sides)) > 1e-9:  # a centre on a side belongs to one of its two neighbours
                assert inside[row, column] == (min(sides) > 0 or max(sides) < 0)


def test_shares_are_counts_of_the_zones_pixels() -> None:
    class_map = np.zeros((10, 20), np.uint8)
    class_map[:, 15:] = 2
    class_map[0, 10] = 1
    right = [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]
    assert _shares(right, class_map) == [49 / 100, 1 / 100, 50 / 100]
    assert _shares(None, class_map) == [149 / 200, 1 / 200, 50 / 200]
    zone = ZoneShares(right)
    assert zone(class_map, 2) == 0.5
    wider = np.zeros((40, 30), np.uint8)[:, 5:25]  # a part of a letterboxed map, of another size
    assert (zone(wider, 0), zone(wider, 2)) == (1, 0)
    notch: list[tuple[float, float]] = [(0, 0), (1, 0), (1, 1), (0.5, 0.5), (0, 1)]
    assert sum(_shares(notch, class_map)) == pytest.approx(1)


def _shares(points: list[tuple[float, float]] | None, class_map: Frame) -> list[float]:
    return [ZoneShares(points)(class_map, number) for number in range(3)]


def test_a_zone_smaller_than_a_pixel_takes_the_pixel_at_its_middle() -> None:
    class_map = np.arange(4, dtype=np.uint8).reshape(2, 2)
    for (x, y), expected in {(0.1, 0.1): 0, (0.9, 0.1): 1, (0.1, 0.9): 2, (0.9, 0.9): 3}.items():
        zone = ZoneShares([(x, y), (x + 0.01, y), (x, y + 0.01)])
        assert [zone(class_map, number) for number in range(4)] == [float(number == expected) for number in range(4)]


# Frames a second apart, and durations of whole seconds, so that what must happen can be told by counting.
values = st.lists(st.sampled_from([0.0, 0.2, 0.3, 0.45, 0.5, 0.6, 0.9]), max_size=80)
rules_of_a_machine = st.builds(
    lambda seconds, below, below_for, cooldown: _rule(
        **{"for": float(seconds), "below": below, "below_for": float(below_for), "cooldown": float(cooldown)}
    ),
    st.integers(0, 4),
    st.sampled_from([0.25, 0.4, 0.5]),
    st.integers(0, 3),
    st.integers(0, 6),
)


def _counted(rule: Rule, series: list[float]) -> list[tuple[int, int, float]]:
    """(start, end, peak) of each event by looking at the whole series at once."""
    found, at, free = [], 0, 0.0
    lasts, gap = int(rule.seconds), int(rule.below_for)
    while at + lasts < len(series):
        if at < free or min(series[at : at + lasts + 1]) <= rule.above:
            at += 1
            continue
        ends = [
            place
            for place in range(at + lasts + 1, len(series) - gap)
            if max(series[place : place + gap + 1]) < rule.below
        ]
        falls = [place for place in range(len(series)) if place > at + lasts and max(series[place:]) < rule.below]
        end, closed = (ends[0], ends[0] + gap) if ends else (falls[0] if falls else len(series) - 1, len(series))
        found.append((at, end, max(series[at : end + 1])))
        free = end + rule.cooldown
        at = closed + 1
    return found


def _played(rule: Rule, series: list[float]) -> list[tuple[int, int, float]]:
    states: list[State] = [Idle()]
    for second, value in enumerate(series):
        states.append(advance(rule, states[-1], Moment(float(second), value)))
    states.append(stop(rule, states[-1]))
    return [
        (round(state.ended.first.seconds), round(state.end.seconds), state.ended.peak.value)
        for state in states
        if isinstance(state, Cooling) and state.ended is not None and state.end is not None
    ]


@given(rules_of_a_machine, values)
def test_events_are_those_that_counting_finds(rule: Rule, series: list[float]) -> None:
    assert _played(rule, series) == _counted(rule, series)


@given(rules_of_a_machine, values)
def test_never_two_events_at_once_hysteresis_cooldown_and_peak(rule: Rule, series: list[float]) -> None:
    events = _played(rule, series)
    for start, end, peak in events:
        assert min(series[start : start + int(rule.seconds) + 1]) > rule.above
        assert end >= start + rule.seconds
        assert peak == max(series[start : end + 1])
        between = series[start : end + 1]
        assert all(value >= rule.below for value in between[:-1]) or rule.below_for > 0
    for (_, end, _), (start, _, _) in pairwise(events):
        assert start > end
        assert start >= end + rule.cooldown


def test_an_event_that_is_shorter_than_asked_is_none() -> None:
    rule = _rule(**{"for": 2.0})
    assert _played(rule, [0.9, 0.9, 0.1, 0.9, 0.9, 0.1]) == []
    assert _played(rule, [0.9, 0.9, 0.9]) == [(0, 2, 0.9)]


def test_frame_times_that_do_not_add_up_exactly() -> None:
    state: object = Idle()
    for index in range(21):
        state = advance(_rule(**{"for": 2.0}), state, Moment(index / 10, 0.9))  # type: ignore[arg-type]
    assert isinstance(state, Active)


def _sight(second: float, value: float, stream: int = 0, live: bool = True) -> Sight:
    class_map = np.zeros((10, 10), np.uint8)
    class_map[: round(value * 10)] = 2
    frame = np.full((4, 4, 3), round(value * 100), np.uint8)
    return Sight(stream, f"camera {stream}", live, second, 1000 + second, frame, class_map)


def _watch(**changes: object) -> Watch:
    return Watch(Rules(rules=(_rule(**changes),)), ("dark", "middle", "bright"))


def test_an_event_carries_start_end_peak_and_the_frame_of_its_peak() -> None:
    watch = _watch(**{"for": 1.0, "below": 0.4})
    told = [
        event
        for second, value in enumerate([0.1, 0.6, 0.8, 0.9, 0.7, 0.1])
        for event in watch.observe(_sight(second, value))
    ]
    start, end = told
    assert (start.state, start.start, start.end, round(start.peak, 6)) == ("start", 1001, None, 0.8)
    assert (end.state, end.start, end.end, end.seconds, round(end.peak, 6)) == ("end", 1001, 1005, 4, 0.9)
    assert start.id == end.id
    assert (end.rule, end.class_name, end.zone, end.stream, end.source) == ("a", "bright", None, 0, "camera 0")
    assert end.frame is not None
    assert end.frame[0, 0, 0] == 90
    assert end.snapshot is not None
    assert end.snapshot.startswith(b"\xff\xd8")
    assert [event.end for event in watch.recent] == [1005]
    assert watch.recent[0].frame is None


def test_inputs_are_watched_each_by_itself() -> None:
    watch = _watch()
    told = [
        watch.observe(_sight(second, value, stream))
        for second, stream, value in [(0, 0, 0.9), (0, 1, 0.1), (1, 1, 0.9), (1, 0, 0.1)]
    ]
    assert [[(event.stream, event.state) for event in events] for events in told] == [
        [(0, "start")],
        [],
        [(1, "start")],
        [(0, "end")],
    ]
    assert [(event.stream, event.end) for event in watch.finish()] == [(1, 1001)]
    assert watch.finish() == []


def test_a_rule_for_one_input_leaves_the_others_alone() -> None:
    watch = _watch(inputs=[1])
    assert watch.observe(_sight(0, 0.9, stream=0)) == []
    assert len(watch.observe(_sight(0, 0.9, stream=1))) == 1


def test_a_camera_that_falls_silent_ends_its_events_and_a_new_one_may_start() -> None:
    watch = _watch()
    watch.observe(_sight(0, 0.9))
    assert watch.look_for_silence(29.0) == []
    assert [(event.state, event.end) for event in watch.look_for_silence(31.0)] == [("end", 1000)]
    assert watch.look_for_silence(99.0) == []
    assert [event.state for event in watch.observe(_sight(100, 0.9))] == ["start"]
    assert [(event.state, event.end) for event in watch.observe(_sight(200, 0.9))] == [("end", 1100), ("start", None)]


def test_the_next_video_ends_the_events_of_the_one_before() -> None:
    watch = _watch()
    watch.observe(_sight(7, 0.9, stream=0, live=False))
    told = watch.observe(_sight(0, 0.9, stream=1, live=False))
    assert [(event.stream, event.state, event.position) for event in told] == [(0, "end", 7), (1, "start", 0)]
    assert watch.look_for_silence(1e9) == []


def test_scores_of_a_classification() -> None:
    watch = _watch(above=0.8)
    scores = np.array([0.1, 0.05, 0.85], np.float32)
    told = watch.observe(Sight(0, "camera", True, 0.0, 5.0, None, scores=scores))
    assert [round(event.peak, 2) for event in told] == [0.85]
    assert told[0].snapshot is None


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=60))
def test_starts_and_ends_alternate_and_identifiers_are_unique(frames: list[tuple[int, float]]) -> None:
    watch = Watch(Rules(rules=(_rule(), _rule(name="b", above=0.2))), ("dark", "middle", "bright"))
    told: list[Event] = []
    for second, (stream, value) in enumerate(frames):
        told += watch.observe(_sight(second, value, stream))
    told += watch.finish()
    for key in {(event.rule, event.stream) for event in told}:
        states = [event.state for event in told if (event.rule, event.stream) == key]
        assert states == ["start", "end"] * (len(states) // 2)
    starts = [event.id for event in told if event.state == "start"]
    assert len(set(starts)) == len(starts)
    assert sorted(starts) == sorted(event.id for event in told if event.state == "end")
