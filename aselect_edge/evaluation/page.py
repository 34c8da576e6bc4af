"""Results as one self-contained HTML file: plots are embedded, no network access, no scripts."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from aselect_runtime.files import atomic_write

SENTENCE = 60
"""Characters of a table's cell from which it is broken into lines."""
WIDE = 1.6
"""Width over height from which a plot is not shrunk to the width of a phone."""


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a sentence, and the contents below, in this order."""

    title: str
    text: str = ""
    facts: Mapping[str, str] | None = None
    bars: Mapping[str, float | None] | None = None
    """Shares, 0 to 1, by name; None for an absent value."""
    colours: Mapping[str, tuple[int, int, int]] | None = None
    """RGB of a square before a bar's name."""
    rows: Sequence[Sequence[str]] = ()
    """A table; its first row is the header."""
    plot: Path | None = None
    """A PNG file, embedded."""


def write_page(path: Path, title: str, sections: Iterable[Section]) -> None:
    """Write the page atomically; raises WriteError."""
    body = "\n".join(_section(section) for section in sections)
    page = _PAGE.replace("{title}", escape(title)).replace("{body}", body)
    atomic_write(path, page)


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.facts:
        cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in section.facts.items())
        parts.append(f"<dl>{cells}</dl>")
    if section.bars:
        colours = section.colours or {}
        bars = (_bar(name, share, colours.get(name)) for name, share in section.bars.items())
        parts.append(f'<table class="bars">{"".join(bars)}</table>')
    if section.rows:
        parts.append(_table(section.rows))
    if section.plot:
        parts.append(_image(section.title, section.plot.read_bytes()))
    return f"<section>{''.join(parts)}</section>"


def _image(title: str, png: bytes) -> str:
    """A plot that is much wider than high scrolls on a phone, where its text would be too small to read."""
    width, height = struct.unpack(">II", png[16:24])
    kind = "wide" if width > WIDE * height else "plot"
    data = base64.b64encode(png).decode()
    return f'<div class="{kind}"><img alt="{escape(title)}" src="data:image/png;base64,{data}"></div>'


def _bar(name: str, share: float | None, colour: tuple[int, int, int] | None) -> str:
    red, green, blue = colour or (0, 0, 0)
    square = f'<i style="background:rgb({red} {green} {blue})"></i>' if colour else ""
    bar = "" if share is None else f'<div style="width:{100 * share:.1f}%"></div>'
    number = "absent" if share is None else f"{100 * share:.1f} %"
    return f'<tr><th>{square}{escape(name)}</th><td>{bar}</td><td class="number">{number}</td></tr>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(map(_cell, row)) for row in body]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(text: str) -> str:
    """Only sentences are broken into lines; a table that is too wide for a phone scrolls."""
    return f"<td>{escape(text)}</td>" if len(text) > SENTENCE else f'<td class="whole">{escape(text)}</td>'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #e6e6e6; --soft: #666; --bar: #2a9d8f; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #1b1b1b; --faint: #3a3a3a; --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; font-weight: normal; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--faint); }
.bars { display: table; width: 100%; } .bars th { width: 1%; white-space: nowrap; }
.wide { overflow-x: auto; } @media (max-width: 40rem) { .wide img { max-width: none; width: 44rem; } }
.bars i { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .5rem; }
.bars div { height: .7rem; background: var(--bar); border-radius: 2px; min-width: 1px; }
.whole { white-space: nowrap; }
.number { width: 1%; white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1>{title}</h1>
{body}
</html>
"""
