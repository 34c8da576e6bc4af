"""How long an operation still takes, on a terminal and in a pipe, and what Ctrl-C says."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.pace import MEASURED, Pace, duration
from aselect_runtime.progress import terminal_progress

WORK = """
import sys, time
from aselect_runtime.commands.entry import entry
from aselect_runtime.progress import terminal_progress

def work() -> None:
    with terminal_progress(resumes={resumes}) as progress:
        progress("features of 10 images", 0.1)
        print("ready", flush=True)
        while True:  # a signal at the beginning of one long sleep would wait for its end
            time.sleep(0.1)

entry(work)()
"""


def test_an_operation_is_announced_once_with_its_time() -> None:
    pace = Pace(resumes=True)
    assert pace.heard("features of 3000 views", 0.0, 100.0) is None
    assert pace.heard("features of 3000 views", 0.005, 104.0) is None  # too early to tell
    # 1 % in 7.2 s: 99 % are 712.8 s, which is 11.88 minutes.
    line = pace.heard("features of 3000 views", 0.01, 107.2)
    assert line == "features of 3000 views: about 12 minutes left; stop with Ctrl-C, the same command resumes"
    assert pace.heard("features of 3000 views", 0.02, 114.4) is None
    assert pace.line(114.4) == "features of 3000 views: 2%, about 12 minutes left"


def test_what_was_done_by_an_earlier_run_does_not_count_as_fast() -> None:
    pace = Pace()
    pace.heard("features", 0.8, 0.0)
    # 2 % in 10 s: the 18 % that are left take 90 s.
    assert pace.heard("features", 0.82, 10.0) == "features: about 2 minutes left"
    assert pace.left(10.0) == pytest.approx(90.0)


def test_the_next_operation_has_a_pace_of_its_own() -> None:
    pace = Pace()
    pace.heard("features", 0.0, 0.0)
    pace.heard("features", 1.0, 1000.0)
    assert pace.heard("training, loss 1.0", 0.001, 1000.0) is None
    assert pace.left(1000.0) is None
    assert pace.line(1012.0) == "training, loss 1.0, about 10 seconds so far"
    # 10 % more in 100 s: what is left, 89.9 %, takes 899 s.
    assert pace.heard("training, loss 0.9", 0.101, 1100.0) == "training, loss 0.9: about 15 minutes left"


def test_time_of_an_operation_without_shares_is_not_that_of_the_next() -> None:
    pace = Pace()
    pace.heard("running the reference", 0.0, 0.0)
    pace.heard("measuring ranges", 0.01, 600.0)
    assert pace.left(600.0) is None
    # 1 % in 6 s: 98 % are 588 s.
    assert pace.heard("measuring ranges", 0.02, 606.0) == "measuring ranges: about 10 minutes left"


def test_the_names_of_steps_do_not_begin_another_operation() -> None:
    pace = Pace()
    said = [pace.heard(f"tactic {second % 3}", second / 300, float(second)) for second in range(300)]
    assert [line for line in said if line] == ["tactic 0: about 5 minutes left"]


def test_what_ends_soon_is_not_announced() -> None:
    pace = Pace()
    pace.heard("checking", 0.0, 0.0)
    assert pace.heard("checking", 0.5, 6.0) is None
    assert pace.heard("checking", 0.6, 600.0) is None


@given(
    st.floats(0, 0.9),
    st.floats(0.01, 1e4),
    st.lists(st.floats(0.001, 0.09), min_size=1, max_size=20),
    st.floats(0, 1e6),
)
def test_a_steady_pace_is_estimated_exactly(begin: float, whole: float, steps: list[float], start: float) -> None:
    """Work that takes `whole` seconds in all is (1 - share) * whole seconds from its end, whenever one asks."""
    pace, share = Pace(), begin
    pace.heard("work", share, start)
    for step in steps:
        share = min(1.0, share + step)
        pace.heard("work", share, start + (share - begin) * whole)
    now = start + (share - begin) * whole
    assert pace.left(now) == pytest.approx((1 - share) * whole, rel=1e-3, abs=1e-3 * max(1.0, whole))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2.0, "about 10 seconds"),
        (44.0, "about 40 seconds"),
        (89.0, "about 90 seconds"),
        (720.0, "about 12 minutes"),
        (5399.0, "about 90 minutes"),
        (9000.0, "about 2.5 hours"),
    ],
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_terminal_shows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, clock = Terminal(), iter([0.0, 2 * MEASURED])
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("aselect_runtime.progress.monotonic", lambda: next(clock))
    with terminal_progress(resumes=True) as progress:
        progress("features [of 8]", 0.0)
        progress("features [of 8]", 0.1)  # 10 s for a tenth: 90 s left
    shown = terminal.getvalue()
    assert "features [of 8]: about 2 minutes left; stop with Ctrl-C, the same command resumes\n" in shown
    assert "0:00:00" not in shown


@pytest.mark.parametrize(
    ("resumes", "said"), [(True, "interrupted; the same command resumes\n"), (False, "interrupted\n")]
)
def test_ctrl_c_says_whether_the_same_command_resumes(resumes: bool, said: str) -> None:
    command = [sys.executable, "-c", WORK.format(resumes=resumes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, said)


def test_in_a_pipe_a_line_comes_at_each_interval_even_when_nothing_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = Event()

    class Listening(io.StringIO):
        def write(self, text: str) -> int:
            said.set()
            return super().write(text)

    stream = Listening()
    monkeypatch.setattr("aselect_runtime.progress.EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal_progress() as progress:
        progress("building the engine", 0.0)
        assert said.wait(60)
    assert stream.getvalue().startswith("building the engine, about 10 seconds so far")
