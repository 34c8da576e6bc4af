"""The generated parts of the model card: the figures of every class, and what the strategies choose on the backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from aselect_runtime.records import Selection

ROOT = Path(__file__).parent.parent
GPU_RUN = ROOT / "docs" / "gpu-run.json"
WEIGHTS = ROOT / "weights" / "aselect_weights"
BIRDS = "ship-large"
"""The row of the GPU run that is the included `cls`."""
SETS = {"seg": "CamVid", "cls": "cub40"}
TITLES = {
    "hfr": "`hfr`",
    "hfr-signal": "`hfr-signal`",
    "smallest-sigma": "`smallest-sigma`, the default without labels",
}


def streets(main_job: dict[str, Any]) -> str:
    """Test IoU of every class of `seg`, the best first."""
    prefix, suffix = "CamVid test IoU ", ", fp16 [%]"
    found = {
        key.removeprefix(prefix).removesuffix(suffix): value
        for key, value in main_job["figures"].items()
        if key.startswith(prefix) and key.endswith(suffix)
    }
    return _listed("test IoU, %", found, f"Measured {main_job['date']} with `python -m benchmarks.main_job`, FP16.")


def birds() -> str:
    """Test recall of every class of `cls`, the best first."""
    run = json.loads(GPU_RUN.read_text(encoding="utf-8"))
    row = next(row for row in run["rows"] if (row["task"], row["row"]) == ("cls", BIRDS))
    classes = json.loads((WEIGHTS / "cls" / "bundle.json").read_text(encoding="utf-8"))["classes"]
    found = {_bird(info["name"]): 100 * value for info, value in zip(classes, row["per_class"], strict=True)}
    note = (
        f"At the end of its training, {run['date']}, in torch: top-1 {100 * row['test']:.1f} %; 11 to 30 images each."
    )
    return _listed("test recall, %", found, note)


def _bird(name: str) -> str:
    """The species in the data set's folder name, such as `001.Black_footed_Albatross`."""
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def _listed(title: str, found: dict[str, float], note: str) -> str:
    each = ", ".join(f"{name} {value:.0f}" for name, value in sorted(found.items(), key=lambda item: -item[1]))
    return f"{title[0].upper()}{title[1:]}: {each}.\n\n{note}"


def choices() -> str:
    """What the label-free strategies chose on the included backbone, and a ridge probe's accuracy there."""
    table = probed()
    best, top = max(table.items(), key=lambda item: item[1])
    rows = [f"| a labelled probe | {_pick('seg', 'probe')} | {best[0]} at {best[1]:g} | {100 * top:.1f} % | 0 |"]
    for name, title in TITLES.items():
        tap, step = chosen("cls", name)
        value = table.get((tap, step))
        cells = [f"{100 * value:.1f} %", f"{100 * (top - value):.1f}"] if value is not None else ["not scored", ""]
        rows.append(f"| {title} | {_pick('seg', name)} | {tap} at {step:g} | {' | '.join(cells)} |")
    head = "| chosen by | CamVid | cub40 | the probe there, cub40 val | points below its best |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def probed() -> dict[tuple[str, float], float]:
    """The included `cls` selection's accuracy on val of a ridge probe, by tap and timestep."""
    selection = Selection.load(WEIGHTS / "cls" / "selection.json")
    return {(str(score.tap), score.noise.model_timestep): score.value for score in selection.scores}


def chosen(task: str, strategy: str) -> tuple[str, float]:
    """Tap and timestep that a strategy chose in the GPU run, from its log."""
    lines = json.loads(GPU_RUN.read_text(encoding="utf-8"))["log"]
    pattern = re.compile(rf" {task} {re.escape(strategy)}: (\S+) at timestep ([\d.]+)$")
    tap, step = next(found.groups() for found in map(pattern.search, lines) if found)
    return tap, float(step)


def _pick(task: str, strategy: str) -> str:
    tap, step = chosen(task, strategy)
    return f"{tap} at {step:g}"
