"""A proof that cannot be made says why in one line, records nothing and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aselect_runtime.errors import GateError, MissingDependencyError
from tests.proof import environments, steps
from tests.proof.steps import ROOT, Check, Seen, found, passed, prove, run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")
    monkeypatch.setattr(steps, "RESULTS", tmp_path)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('a'); sys.exit('no disk')", r"got exit code 1 \(no disk\), expected 0"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"got signal SIGKILL \(nothing\), expected"),
        ("while True: pass", "got no end within 1 s, expected one"),
    ],
)
def test_a_command_that_fails_is_reported_in_one_line(code: str, told: str) -> None:
    with pytest.raises(GateError, match=told) as caught:
        run([sys.executable, "-c", code], 1)
    assert "\n" not in str(caught.value)


def test_what_a_failed_command_said_is_kept() -> None:
    with pytest.raises(GateError, match=r"read .*proof\.log"):
        run([sys.executable, "-c", "print('first'); import sys; sys.exit('last')"])
    assert (steps.BUILD / "proof.log").read_text() == "first\nlast\n"


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(
        MissingDependencyError, match="got no qemu-of-nobody, expected it on the PATH; apt install qemu"
    ):
        found("qemu-of-nobody", "apt install qemu")


def test_nothing_is_recorded_of_a_proof_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(place: Path) -> Seen:
        (place / "half").touch()
        raise GateError("got one, expected two; count again")

    with pytest.raises(SystemExit) as ended:
        prove("nothing", fails)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "GateError: got one, expected two; count again\n"
    assert list(steps.BUILD.rglob("*")) == []
    assert not (steps.RESULTS / "proof-nothing.json").exists()


def test_a_proof_that_passes_is_recorded_and_cleans_up() -> None:
    prove("something", lambda place: Seen({"Python": "3"}, (Check(place.name, "empty"),)))
    assert '"seen": "empty"' in (steps.RESULTS / "proof-something.json").read_text()
    assert list(steps.BUILD.iterdir()) == []


def test_a_proof_that_is_terminated_cleans_up(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from tests.proof import steps; steps.BUILD = pathlib.Path(sys.argv[1]);"
        "steps.prove('x', lambda place: (print('started', flush=True), steps.run(['sleep', '600'])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "build")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    process.stdout.close()
    assert list((tmp_path / "build").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "counts"),
    [("..s\n3 passed in 0.21s\n", "3 passed"), ("12 passed, 4 skipped, 1 warning in 9.00s", "12 passed, 4 skipped")],
)
def test_what_pytest_counted(said: str, counts: str) -> None:
    assert passed(said, "tests") == counts


@pytest.mark.parametrize("said", ["", "4 skipped in 0.10s", "no tests ran in 0.00s"])
def test_tests_of_which_none_passed_prove_nothing(said: str) -> None:
    with pytest.raises(GateError, match="expected tests that passed; look at tests/runtime"):
        passed(said, "tests/runtime")


def test_an_environment_that_was_not_filled_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    nothing = environments.Environment("nothing", "Nothing")
    with pytest.raises(GateError, match="pip"):
        nothing.install(str(tmp_path / "no-such.whl"))
    assert nothing.python.exists()
    assert not nothing.complete
    with pytest.raises(MissingDependencyError, match=r"expected Nothing in it; make test-nothing"):
        nothing.check()
