"""The help of every command: in groups, complete, at most a page, with examples that use its own options."""

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


def page(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> str:
    command: Any = getattr(import_module(COMMANDS[name]), name)
    with pytest.raises(SystemExit) as ended:
        command.verb()([option], prog_name=f"aselect-{name}")
    assert ended.value.code == 0
    return capsys.readouterr().out


def listed(shown: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", shown, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Common ones with a description; the others by name, and described by --help-all."""
    command: Any = getattr(import_module(COMMANDS[name]), name)
    verb = command.verb()
    options = [one for one in verb.params if one.opts[0].startswith("-")]
    common = {max(one.opts, key=len) for one in options if not one.hidden}
    rare = {max(one.opts, key=len) for one in options if one.hidden}
    shown = page(name, "--help", capsys)
    assert sorted(listed(shown)) == sorted({*common, "--help"})
    assert ("--help-all" in common) == bool(rare)
    assert all(re.search(rf"{option}\b", shown) for option in rare)
    if rare:
        assert sorted(listed(page(name, "--help-all", capsys))) == sorted({*common, *rare, "--help"})
    names = {parameter.name for parameter in verb.params}
    assert {one for group in command.groups.values() for one in group} <= names
    assert command.examples
    for example in command.examples:
        assert set(re.findall(r"--[a-z0-9-]+", example)) <= common
        assert example in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_on_a_page(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert len(page(name, "--help", capsys).splitlines()) <= 45


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
