"""A short form of `make soak`: two kills of aselect-run, and a run that leaks is noticed."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from aselect_runtime.errors import GateError, IntegrityError
from tests.proof.kill_jobs import running
from tests.proof.kills import Job, Trial
from tests.proof.soak import Reading, Soak, judged


def test_a_run_that_is_killed_leaves_old_or_new_outputs(seg_model: Path, tmp_path: Path) -> None:
    trial = Trial(running(seg_model), tmp_path / "run")
    trial.learn()
    assert trial.changes > 5
    for _ in range(2):
        trial.kill(random.Random(1))


def test_an_output_that_is_neither_old_nor_new_is_noticed(tmp_path: Path) -> None:
    def read(work: Path) -> None:
        if not (work / "a").read_text():
            raise IntegrityError("empty")

    trial = Trial(Job("x", "m:f", lambda *_: [], ("a",), read), tmp_path)
    trial.work.mkdir()
    for text in ("old", "new", "half"):
        (trial.work / "a").write_text(text)
        if text == "old":
            trial.older = trial.contents()
        elif text == "new":
            trial.newer = trial.contents()
            trial.judge("here")
    with pytest.raises(GateError, match=r"here: got a neither old nor new \(a\)"):
        trial.judge("here")
    (trial.work / "a").write_text("")
    trial.older = trial.contents()
    with pytest.raises(GateError, match="here: got something unreadable"):
        trial.judge("here")


STEADY = Soak(tuple(Reading(100_000_000 + index, 16, 18) for index in range(100)), (5, 3, 9), 50, 4)


def test_a_steady_run_passes_and_its_figures_are_reported() -> None:
    (memory, broker) = judged(STEADY, 30)
    assert memory.seen == "memory 100.0 MB after the warm-up, 100.0 MB at the end (+0.00%); 16 descriptors and 18 " + (
        "threads at start and end"
    )
    assert broker.what == "the same, mosquitto killed and started 2 times"
    assert broker.seen.startswith("3 messages or more between two deaths")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"memory": 101_100_000}, "got 100.0 MB after the warm-up and 101.1 MB at the end, expected growth under 1%"),
        ({"descriptors": 17}, "got 16 descriptors at the start and 17 at the end"),
        ({"threads": 19}, "got 18 threads at the start and 19 at the end"),
    ],
)
def test_a_run_that_leaks_is_noticed(change: dict[str, int], told: str) -> None:
    later = tuple(replace(each, **change) if index > 60 else each for index, each in enumerate(STEADY.readings))
    with pytest.raises(GateError, match=told):
        judged(replace(STEADY, readings=later), 30)


def test_a_broker_without_messages_is_noticed() -> None:
    with pytest.raises(GateError, match="MQTT: got"):
        judged(replace(STEADY, messages=(5, 0, 9)), 30)


def test_a_process_is_read() -> None:
    before = Reading.of(os.getpid())
    with Path("/dev/null").open():
        after = Reading.of(os.getpid())
    assert after.descriptors == before.descriptors + 1
    assert before.memory > 1_000_000
    assert before.threads > 0
