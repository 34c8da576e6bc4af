"""What a GPU run leaves: the figures, and one archive in parts that are small enough to transfer.

`figures.json` has the rows; `results.zip.NNN` hold backbone, selections, figures, the bundles that are best on val, the
fine-tuned teachers, and the best weights so far of trainings that were interrupted. `cat` joins the parts.
"""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from aselect_edge.training.checkpoint import CHECKPOINT, CURVE, read_checkpoint
from aselect_runtime.files import atomic_write
from research.row_jobs import GUIDED, SETS

PART = 15 * 2**20
"""Bytes of a part at most."""
BUNDLES = 2
"""Bundles of each task."""

log = logging.getLogger("gpu")


def collect(work: Path, out: Path) -> None:
    """Write the results of the run in `work` to `out`, replacing those of an earlier call."""
    results = sorted((work / "rows").glob("*.json"))
    rows = [json.loads(path.read_text()) for path in results]
    errors = {path.stem: path.read_text() for path in (work / "rows").glob("*.error")}
    atomic_write(out / "figures.json", json.dumps({"rows": rows, "errors": errors}, indent=1))
    content: list[tuple[Path, str]] = [(out / "figures.json", "figures.json")]
    content += _files(work / "backbone", "backbone")
    content += [(path, path.name) for path in work.glob("*.selection.json")]
    for name in _best(rows):
        content += _files(work / "rows" / name / "bundle", f"bundles/{name}")
    content += [(path, path.name) for path in (work / "rows").glob("*-teacher-0.safetensors")]
    content += _interrupted(work / "rows", {path.stem for path in results})
    whole = work / "results.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in content:
            archive.write(path, name)
    for old in out.glob("results.zip.*"):
        old.unlink()
    data = whole.read_bytes()
    for index, start in enumerate(range(0, len(data), PART)):
        (out / f"results.zip.{index:03d}").write_bytes(data[start : start + PART])
    log.info("results: %.1f MiB in %d parts, %d rows", len(data) / 2**20, -(-len(data) // PART), len(rows))


def _best(rows: list[dict[str, Any]]) -> list[str]:
    """The names of the jobs whose bundles are best on val, for each task."""
    named = []
    for task in SETS:
        bundles = [
            row for row in rows if row["task"] == task and (row["row"].startswith(GUIDED) or row["row"] == "finetuned")
        ]
        bundles.sort(key=lambda row: -float(row["val"]))
        named += [f"{row['task']}-{row['row']}-{row['seed']}" for row in bundles[:BUNDLES]]
    return named


def _interrupted(rows: Path, done: set[str]) -> list[tuple[Path, str]]:
    """Curve and best weights of trainings without a result; `research.rows --start` continues from the weights."""
    content = []
    for checkpoint in sorted(rows.glob(f"*/{CHECKPOINT}")):
        folder = checkpoint.parent
        weights = read_checkpoint(checkpoint).get("best_weights")
        if folder.name not in done and weights:
            best = folder / "best.safetensors"
            save_file({name: value.contiguous() for name, value in weights.items()}, best)
            content.append((best, f"interrupted/{folder.name}.safetensors"))
            content.append((folder / CURVE, f"interrupted/{folder.name}.csv"))
    return content


def _files(folder: Path, name: str) -> list[tuple[Path, str]]:
    """The files of a folder that may not exist, without its checkpoint, and their names below `name`."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKPOINT)
    return [(path, f"{name}/{path.relative_to(folder)}") for path in found]
