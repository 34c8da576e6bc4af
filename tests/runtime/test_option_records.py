"""Options that are declared as the fields of a dataclass: typer sees each, the command gets the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.records import option_names


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: Annotated[int, typer.Option(min=1, help="Rows.")] = 2
    columns: Annotated[int, typer.Option(help="Columns.")]


@dataclass(frozen=True, kw_only=True)
class Taller(Size):
    rows: Annotated[int, typer.Option(min=5, help="Many rows.")] = 9


def _show(*, name: Annotated[str, typer.Argument()] = "it", size: Taller, loud: bool = False) -> None:
    print(name, size, loud)


def _shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        entry(_show, groups={"Size": option_names(Taller)}).verb()(arguments, prog_name="show")
    said = capsys.readouterr()
    return int(str(ended.value.code or 0)), said.out, said.err


def test_a_field_is_an_option_and_the_command_gets_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["that", "--columns", "3", "--rows", "7", "--loud"]
    assert _shown(arguments, capsys) == (0, "that Taller(rows=7, columns=3) True\n", "")
    assert _shown(["--columns", "3"], capsys)[1] == "it Taller(rows=9, columns=3) False\n"


def test_a_field_keeps_its_bounds_its_need_and_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _shown(["--columns", "3", "--rows", "4"], capsys)[0] == 2
    code, _, said = _shown([], capsys)
    assert code == 2
    assert "--columns" in said
    page = _shown(["--help"], capsys)[1]
    assert page.index("Size:") < page.index("Many rows.  [default: 9]") < page.index("Columns.  [required]")
