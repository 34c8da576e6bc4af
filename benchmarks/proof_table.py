"""The table of what was verified and how, from what `make test-arm` and the other proofs recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def recorded(results: Path) -> list[dict[str, Any]]:
    """The recorded proofs, by name; empty if none has run."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("proof-*.json"))]


def table(proofs: list[dict[str, Any]]) -> str:
    """Every check of every proof, then the date, the machine and the versions of each."""
    rows = [
        f"| {check['what']} | {check['seen']} | `{proof['command']}` |" for proof in proofs for check in proof["checks"]
    ]
    captions = []
    for proof in proofs:
        versions = ", ".join(f"{name} {version}" for name, version in proof["versions"].items())
        captions.append(f"- `{proof['command']}`: {proof['date']}, {proof['machine']}; {versions}.")
    return "\n".join(["| what | seen | how |", "|---|---|---|", *rows, "", *captions])
