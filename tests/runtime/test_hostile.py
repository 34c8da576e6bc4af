"""What a stranger may hand to a device: pipes where files are expected, names that rule a terminal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from aselect_runtime import open_model
from aselect_runtime.errors import AselectError, InputError, RecordError
from aselect_runtime.frames import read_image
from aselect_runtime.progress import log_on_stderr
from aselect_runtime.records import ClassInfo, Manifest
from aselect_runtime.rules.file import load_rules
from aselect_runtime.sources import open_source

ESCAPE = "\x1b]0;owned\x07\x9b31m"


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.h264", "a"])
def test_a_pipe_as_an_input_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="got a pipe, socket or device, expected a video file"):
        open_source(str(tmp_path / name))


def test_a_pipe_as_a_record_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "manifest.json"
    os.mkfifo(pipe)
    with pytest.raises(RecordError, match="no regular file"):
        Manifest.load(pipe)
    with pytest.raises(RecordError, match="no regular file"):
        load_rules(pipe)
    with pytest.raises(InputError, match="no regular file"):
        read_image(pipe)
    with pytest.raises(RecordError, match="no regular file"):
        open_model(tmp_path)
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"expected an export folder or a \.onnx file"):
        open_model(tmp_path / "a.onnx")


def test_a_record_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    os.truncate(tmp_path / "manifest.json", 1 << 40)
    with pytest.raises(RecordError, match=f"{1 << 40} bytes, more than"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "rules.toml").symlink_to("/dev/zero")
    with pytest.raises(RecordError, match="no regular file"):
        load_rules(tmp_path / "rules.toml")


def test_names_do_not_rule_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"got the class name '\\x1b\]0;owned\\x07\\x9b31m'"):
        ClassInfo(name=ESCAPE, colour=(0, 0, 0))
    with log_on_stderr():
        logging.getLogger("aselect_runtime.test").warning("skipped %s\nerror: forged", ESCAPE)
    assert capsys.readouterr().err == "warning: skipped ?]0;owned??31m error: forged\n"


def test_errors_of_commands_do_not_rule_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from aselect_runtime.commands.entry import reporting

    with pytest.raises(SystemExit), reporting(verbose=False):
        raise AselectError(f"{ESCAPE}\nwarning: forged")
    assert capsys.readouterr().err == "error: ?]0;owned??31m warning: forged\n"
