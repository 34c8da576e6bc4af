"""Options that several commands share, and parsing an option's text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from aselect_runtime.errors import InputError
from aselect_runtime.options import Device

T = TypeVar("T")

Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
OnDevice = Annotated[
    Device,
    typer.Option("--device", metavar="NAME", help="auto (fastest), cpu, cuda, tensorrt, openvino, openvino-bf16."),
]
Targets = Annotated[str | None, typer.Option(metavar="SM[,SM]", help="Build ahead of time, for example sm86,sm89.")]


def read(text: str | None, option: str, reader: Callable[[str], T]) -> T | None:
    """Parse an option's text with `reader`; None if the option was not given.

    An InputError of `reader` becomes a usage error.
    """
    if text is None:
        return None
    try:
        return reader(text)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def unset_at(sentinel: float) -> Callable[[Any], Any]:
    """A callback for an option that older scripts set to `sentinel` to mean None (not given)."""

    def callback(value: Any) -> Any:
        return None if value == sentinel else value

    return callback


def _show_all(ctx: typer.Context, asked: bool) -> None:
    command: Any = ctx.command
    if asked and not ctx.resilient_parsing:
        for option in command.params:
            if getattr(option, "hidden", False):
                option.hidden = False
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show this message with all options and exit."),
]
"""For a command that has options with `hidden=True`: its --help only names them."""
