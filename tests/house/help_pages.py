"""The commands of the project and their help, read in this process; test_aselect reads it in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import io
from importlib import import_module

from aselect_runtime.commands.entry import Command

ENTRIES = {
    "aselect-init": "aselect_edge.commands.init:init",
    "aselect-select": "aselect_edge.commands.select:select",
    "aselect-train": "aselect_edge.commands.train:train",
    "aselect-distil": "aselect_edge.commands.distil:distil",
    "aselect-export": "aselect_export.commands.export:export",
    "aselect-eval": "aselect_export.commands.evaluate:evaluate",
    "aselect-build": "aselect_runtime.commands.build:build",
    "aselect-run": "aselect_runtime.commands.run:run",
    "aselect-bench": "aselect_runtime.commands.bench:bench",
    "aselect-doctor": "aselect_runtime.commands.doctor:doctor",
}


def command_of(name: str) -> Command:
    """The command behind a console script."""
    module, _, function = ENTRIES[name].partition(":")
    command = getattr(import_module(module), function)
    assert isinstance(command, Command)
    return command


@functools.cache
def help_of(name: str, typed: str | None = None) -> str:
    """What `NAME --help` prints where the command was typed as `typed`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        command_of(name).verb()(["--help"], prog_name=typed or name)
    assert printed.getvalue().startswith(f"Usage: {typed or name}")
    return printed.getvalue()
