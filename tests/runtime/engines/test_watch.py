"""Watching a build: the fraction that the bar shows, and what is made of TensorRT's words."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.engines.log import brief, first, remedy
from aselect_runtime.engines.phases import PhaseTree
from aselect_runtime.progress import log_on_stderr, terminal_progress

NAMES = st.sampled_from("abcdef")
MOVES = st.one_of(
    st.tuples(st.just("start"), NAMES, st.one_of(st.none(), NAMES), st.integers(-1, 5)),
    st.tuples(st.just("step"), NAMES, st.none(), st.integers(-2, 9)),
    st.tuples(st.just("finish"), NAMES, st.none(), st.just(0)),
)


@given(moves=st.lists(MOVES, max_size=40))
def test_whatever_tensorrt_reports_the_fraction_is_one_and_never_falls(
    moves: list[tuple[str, str, str | None, int]],
) -> None:
    tree, last = PhaseTree(), 0.0
    for kind, name, parent, number in moves:
        if kind == "start":
            tree.start(name, parent, number)
        elif kind == "step":
            tree.step(name, number)
        else:
            tree.finish(name)
        assert 0.0 <= last <= tree.fraction <= 1.0
        last = tree.fraction
        assert isinstance(tree.current, str)


def test_phases_within_phases() -> None:
    tree = PhaseTree()
    tree.start("build", None, 4)
    tree.step("build", 0)
    assert tree.fraction == 0.25
    tree.start("tactics", "build", 2)
    tree.step("tactics", 0)
    assert tree.fraction == 0.25 + 0.5 / 4
    assert tree.current == "tactics"
    tree.finish("tactics")
    tree.finish("build")
    assert tree.fraction == 1.0


def test_without_a_terminal_there_are_lines_of_the_log_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("aselect_somewhere")
    with log_on_stderr(), terminal_progress() as progress:
        log.info("building")
        log.warning("slow")
        log.debug("not for people")
        logging.getLogger("another.library").info("not ours")
        progress("phase", 0.5)
    log.warning("nobody shows this now")
    assert capsys.readouterr() == ("", "building\nwarning: slow\n")


def test_on_a_terminal_lines_go_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with log_on_stderr(), terminal_progress() as progress:
        progress("Timing [tactics]", 0.1)
        logging.getLogger("aselect_somewhere").info("verifying the engine [on frames]")
        progress("Timing [tactics]", 0.5)
    assert "verifying the engine [on frames]" in terminal.getvalue()
    assert "Timing [tactics]" in terminal.getvalue()
    assert sys.stderr is terminal


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)", "smaller input size"),
        ("Cuda Runtime (out of memory)", "close other programs"),
        ("Serialization assertion failed. Version tag does not match", "run aselect-build"),
        ("Error Code 10: Could not find any implementation for node {ForeignNode[x]}", "otherwise"),
        ("", "otherwise"),
    ],
)  # fmt: skip
def test_advice_is_derived_from_tensorrts_messages(words: str, advice: str) -> None:
    assert advice in remedy([words], "otherwise")
    more = remedy([words], "otherwise", workspace_mib=64)
    assert more.startswith("leave out the workspace of 64 MiB") == ("memory" in words.lower())


def test_long_errors_become_one_line() -> None:
    assert brief("  one\n two \nthree") == "one - two"
    assert first([]) == "no reason given"
    assert first(["cause", "consequence"]) == "cause"
