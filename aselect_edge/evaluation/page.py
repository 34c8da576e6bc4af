"""Results as one self-contained HTML file: plots are embedded, no network access, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from aselect_runtime.files import atomic_write


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a sentence, and the contents below, in this order."""

    title: str
    text: str = ""
    facts: Mapping[str, str] | None = None
    bars: Mapping[str, float | None] | None = None
    """Shares, 0 to 1, by name; None for an absent value."""
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
        parts.append(f'<table class="bars">{"".join(_bar(*bar) for bar in section.bars.items())}</table>')
    if section.rows:
        parts.append(_table(section.rows))
    if section.plot:
        data = base64.b64encode(section.plot.read_bytes()).decode()
        parts.append(f'<img alt="{escape(section.title)}" src="data:image/png;base64,{data}">')
    return f"<section>{''.join(parts)}</section>"


def _bar(name: str, share: float | None) -> str:
    if share is None:
        return f'<tr><th>{escape(name)}</th><td></td><td class="number">absent</td></tr>'
    bar = f'<div style="width:{100 * share:.1f}%"></div>'
    return f'<tr><th>{escape(name)}</th><td>{bar}</td><td class="number">{100 * share:.1f} %</td></tr>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #e6e6e6; --bar: #2a9d8f; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #1b1b1b; --faint: #3a3a3a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: #888; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; font-weight: normal; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--faint); }
.bars { display: table; width: 100%; } .bars th { width: 1%; white-space: nowrap; }
.bars div { height: .7rem; background: var(--bar); border-radius: 2px; min-width: 1px; }
.number { width: 1%; white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1>{title}</h1>
{body}
</html>
"""
