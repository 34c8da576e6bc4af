"""Every command's help: grouped, no option lost, short words for values, examples that are the command's own."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest

from aselect_runtime.commands.help import shortened

COMMANDS = {
    "init": "aselect_edge.commands.init",
    "select": "aselect_edge.commands.select",
    "train": "aselect_edge.commands.train",
    "distil": "aselect_edge.commands.distil",
    "export": "aselect_export.commands.export",
    "evaluate": "aselect_export.commands.evaluate",
    "run": "aselect_runtime.commands.run",
    "bench": "aselect_runtime.commands.bench",
    "build": "aselect_runtime.commands.build",
    "doctor": "aselect_runtime.commands.doctor",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command: Any = getattr(import_module(COMMANDS[name]), name)
    verb = command.verb()
    with pytest.raises(SystemExit):
        verb(["--help"], prog_name=f"aselect-{name}")
    page = capsys.readouterr().out
    listed = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", page, re.MULTILINE)
    expected = {
        max(o.opts, key=len) for o in verb.params if o.opts[0].startswith("-") and not getattr(o, "hidden", False)
    }
    assert set(listed) == {*expected, "--help"}
    assert len(listed) == len(set(listed))
    names = {parameter.name for parameter in verb.params}
    assert {one for group in command.groups.values() for one in group} <= names
    for example in command.examples:
        options = re.findall(r"--[a-z0-9-]+", example)
        assert set(options) <= expected
        assert example in page


@pytest.mark.parametrize("name", ["train", "export", "run"])
def test_the_help_fits_on_a_page(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        getattr(import_module(COMMANDS[name]), name).verb()(["--help"], prog_name=f"aselect-{name}")
    assert len(capsys.readouterr().out.splitlines()) <= 45


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        ("--batch <int range>", "Frames. [default: 1; x>=1]", ("--batch N", "Frames. [default: 1]")),
        ("--batch INTEGER RANGE", "Frames. [1<=x<=64]", ("--batch N", "Frames.")),
        ("--lr <float range>", "Rate. [default: 0.5; 0<=x<=1; required]", ("--lr X", "Rate. [default: 0.5; required]")),
        ("--task <seg|cls>", "", ("--task seg|cls", "")),
        ("--task [seg|cls]", "", ("--task seg|cls", "")),
        ("--imgsz HxW", "Size [h].", ("--imgsz HxW", "Size [h].")),
        ("INPUT... <list[str]>", "It.", ("INPUT... TEXT", "It.")),
        ("--out PATH", "It.", ("--out PATH", "It.")),
        ("--json", "It.", ("--json", "It.")),
    ],
)
def test_values_are_one_word_and_ranges_are_left_out(names: str, text: str, expected: tuple[str, str]) -> None:
    assert shortened(names, text) == expected
