"""Signals that end a command: one line, the exit status of the signal, and nothing of what was being written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WRITING = """
import ctypes, os, signal, sys, time
from pathlib import Path
from aselect_runtime.commands.entry import entry
from aselect_runtime.files import atomic_file
from aselect_runtime.output_folder import FolderKind, atomic_folder
from aselect_runtime.progress import terminal_progress

def work() -> None:
    folder, file = Path("out"), Path("out.json")
    with terminal_progress(resumes={resumes}), atomic_file(file) as part, atomic_folder(folder, KIND) as parts:
        part.write_text("half")
        (parts / "half").write_text("half")
        {during}

def wait() -> None:
    print("ready", flush=True)
    while True:  # a signal at the beginning of one long sleep would wait for its end
        time.sleep(0.1)

def fork() -> None:
    if os.fork() == 0:
        os.kill(os.getpid(), {number})
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)

def hang() -> None:
    # A call of a library that no signal interrupts: a mutex is locked twice.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)

KIND = FolderKind("marker.json", lambda _: [])
sys.argv = ["work"]
entry(work)()
"""


def _start(folder: Path, during: str, number: int = signal.SIGTERM, *, resumes: bool = False) -> subprocess.Popen[str]:
    """A command that writes a file and a folder in `folder`, and then does what `during` says."""
    code = WRITING.format(during=during, number=int(number), resumes=resumes)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "ended by SIGTERM\n"),
        (signal.SIGHUP, 129, "ended by SIGHUP\n"),
    ],
)
def test_a_signal_removes_what_is_half_written(tmp_path: Path, number: signal.Signals, status: int, said: str) -> None:
    with _start(tmp_path, "wait()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, said)
    assert list(tmp_path.iterdir()) == []


def test_sigterm_says_that_the_same_command_resumes(tmp_path: Path) -> None:
    with _start(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); wait()", resumes=True) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "ended by SIGTERM; the same command resumes\n")


def test_the_shell_and_the_kernel_may_both_tell_that_the_terminal_was_closed(tmp_path: Path) -> None:
    twice = "try: os.kill(os.getpid(), signal.SIGHUP)\n        finally: os.kill(os.getpid(), signal.SIGHUP)"
    with _start(tmp_path, twice) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (129, "ended by SIGHUP\n")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_terminal_is_ignored_where_it_was_ignored_at_the_start(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            "nohup",
            sys.executable,
            "-c",
            WRITING.format(during="os.kill(os.getpid(), signal.SIGHUP)", number=15, resumes=0),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.json"]


def test_a_second_signal_ends_a_command_that_hangs_in_a_library(tmp_path: Path) -> None:
    with _start(tmp_path, "hang()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:  # several signals that come together may be one
            process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert errors.startswith("stopped at once")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_signal_of_a_forked_process_is_not_that_of_the_command(tmp_path: Path, number: signal.Signals) -> None:
    with _start(tmp_path, "fork(); fork()", number) as process:
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, said, errors) == (0, f"{-number}\n" * 2, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.json"]
