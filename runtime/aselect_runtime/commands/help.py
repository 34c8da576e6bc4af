"""The help of a command: options in groups, the most common first, and examples at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from typer.core import TyperCommand

WIDTH = 110
"""Maximum columns of a help text; fewer in a narrower terminal."""
NAMES = 30
"""Columns of an option and its value, before its description."""
GENERAL = ("as_json", "verbose", "help", "help_all")
"""Parameters that all commands share, the last of `Options`."""


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each group of its options."""

    groups: Mapping[str, Sequence[str]] = {}
    """Title -> names of parameters; parameters in no group come first, under `Options`."""
    examples: Sequence[str] = ()

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, and name the hidden options."""
        rows: dict[str, tuple[str, str]] = {}
        arguments = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.opts[0].startswith("-"):
                rows[parameter.name or ""] = shortened(*record)
            else:
                name, about = shortened(*record)
                arguments.append((name.upper(), about))
        grouped = {name for names in (*self.groups.values(), GENERAL) for name in names}
        first = [row for name, row in rows.items() if name not in grouped]
        sections = {"Arguments": arguments, "Options": [*first, *(rows[name] for name in GENERAL if name in rows)]}
        sections |= {title: [rows[name] for name in names if name in rows] for title, names in self.groups.items()}
        for title, listed in sections.items():
            if listed:
                with formatter.section(title):
                    formatter.write_dl(listed, col_max=NAMES)
        if hidden := [max(one.opts, key=len) for one in self.params if getattr(one, "hidden", False)]:
            named = f"More options, described by --help-all: {', '.join(hidden)}"
            formatter.write(f"\n{fill(named, formatter.width, subsequent_indent='    ', break_on_hyphens=False)}\n")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments in capitals, without the braces that some versions of typer write around them."""
        return [re.sub(r"^\{(.*?)\}(\.\.\.)?$", r"\1", piece).upper() for piece in super().collect_usage_pieces(ctx)]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples, each on one unwrapped line that can be copied."""
        if len(self.examples) == 1:
            formatter.write(f"\nExample: {self.examples[0]}\n")
        elif self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{example}\n")


_VALUES = {"str": "TEXT", "text": "TEXT", "int": "N", "integer": "N", "float": "X", "path": "PATH"}


def shortened(names: str, text: str) -> tuple[str, str]:
    """An option's names and description as typer gives them, with the value as one word and without number ranges.

    `--batch <int range>` and `--batch INTEGER RANGE` become `--batch N`, `[default: 1; x>=1]` becomes `[default: 1]`.
    """
    text = text.replace("\\[", "[")  # which typer 0.19 escapes
    names = re.sub(r"<([^<>]+)>", r"\1", names)
    names = re.sub(r"list\[([^\[\]]+)\]$", r"\1", names)
    names = re.sub(r" \[([^\[\]]+\|[^\[\]]+)\]", r" \1", names)
    names = re.sub(
        r" (str|text|int|integer|float|path)( range)?$",
        lambda found: " " + _VALUES[found[1].lower()],
        names,
        flags=re.IGNORECASE,
    )
    limit = r"(?:-?[\d.]+<=?)?x(?:[<>]=?-?[\d.]+)?"
    text = re.sub(rf"\s*\[{limit}\]", "", text)
    return names, re.sub(rf"; {limit}(?=[;\]])", "", text)
