"""The systemd unit, checked by systemd itself, and credentials that come from the environment."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.commands.variables import filled_in
from aselect_runtime.errors import InputError

UNIT = Path(__file__).parents[2] / "docs" / "service" / "aselect-run.service"
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """With a program that exists here: all else is judged as it ships."""
    assert ANALYZE is not None
    text = UNIT.read_text()
    (tmp_path / UNIT.name).write_text(text.replace("/opt/aselect/venv/bin/aselect-run", "/bin/true"))
    done = subprocess.run([ANALYZE, "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_unit_calls_the_command_with_options_that_it_has() -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command.replace("$$", "$"))
    assert program.endswith("/aselect-run")
    assert arguments == ["/var/lib/aselect/model", "${INPUT}", "--output", "${OUTPUT}"]


def test_the_unit_never_gives_up() -> None:
    # systemd.unit(5): an interval of 0 ends the limit of starts; Restart= says which ends are followed by another.
    unit = UNIT.read_text()
    assert re.findall(r"^StartLimit\w+=.*$", unit, re.MULTILINE) == ["StartLimitIntervalSec=0"]
    assert re.findall(r"^Restart=(.*)$", unit, re.MULTILINE) == ["on-failure"]


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "a$b${c}")
    parts = urlsplit(filled_in("rtsp://viewer:${DOOR_PASSWORD}@door/1"))
    assert (parts.hostname, parts.path, unquote(parts.password or "")) == ("door", "/1", "a$b${c}")
    assert filled_in("${DOOR_PASSWORD}/video.mp4") == "a$b${c}/video.mp4"
    assert filled_in("video-$5.mp4") == "video-$5.mp4"
    monkeypatch.delenv("DOOR_PASSWORD")
    with pytest.raises(InputError, match=r"got \$\{DOOR_PASSWORD\}"):
        filled_in("rtsp://viewer:${DOOR_PASSWORD}@door/1")


def test_the_command_fills_them_in(seg_model: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from aselect_runtime.commands.run import run; run()",
        str(seg_model),
        "${STREET}",
        "--json",
    ]
    street = {"STREET": "synthetic://street?size=48x64&frames=2"}
    assert subprocess.run(command, capture_output=True, timeout=60, env=street).returncode == 0
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: got ${STREET}")


@given(password=st.text("ab1/#?[]%@:&=+ é", min_size=1))
def test_any_password_of_the_environment_reaches_the_camera(password: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOOR_PASSWORD", password)
        parts = urlsplit(filled_in("rtsp://viewer:${DOOR_PASSWORD}@door:554/1?x=1"))
    assert (parts.hostname, parts.port, parts.path, parts.query) == ("door", 554, "/1", "x=1")
    assert unquote(parts.password or "") == password
