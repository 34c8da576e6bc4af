"""The tables of README and docs, from the benchmarks' results.

python -m benchmarks.table [--write]    prints them, or writes them into their pages
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import accuracy_report, curriculum_table, graph_table, proof_table, selection_table
from benchmarks.harness import listed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- end -->"

SPEED_ROWS = {
    "CamVid test mIoU, fp16": ("CamVid test mIoU, fp16 [%]", "{:.1f} %"),
    "CamVid test mIoU, fp32": ("CamVid test mIoU, fp32 [%]", "{:.1f} %"),
    "`aselect-run` on a 960x540 clip, overlay video and JSON lines": (
        "aselect-run, overlay and lines [frames/s]",
        "{:.0f} frames/s",
    ),
    "the same session alone": ("session alone [frames/s]", "{:.0f} frames/s"),
    "process start to first result": ("process start to first result [s]", "{:.2f} s"),
    "deployed graph with head, fp16": ("deployed graph with head, fp16 [MB]", "{:.1f} MB"),
    "weights of the whole DiT without head, float16": ("whole DiT without head, float16 [MB]", "{:.1f} MB"),
    "export, with all gates": ("export fp16 [s]", "{:.0f} s"),
    "export, peak memory": ("export fp16, peak memory [MB]", "{:.0f} MB"),
}


def main() -> None:
    """Print the tables or write them into their pages."""
    for page, tables in pages().items():
        if "--write" in sys.argv[1:]:
            write(ROOT / page, tables)
        else:
            print("\n\n".join(tables.values()))


def pages() -> dict[str, dict[str, str]]:
    """The tables of each page, by name; those of benchmarks that have not been run are left out."""
    found = {"README.md": {"figures": figures()}}
    if (RESULTS / "accuracy.json").is_file():
        found["docs/accuracy.md"] = {"accuracy": accuracy()}
    if (RESULTS / "selection.json").is_file():
        result = load("selection")
        found["docs/selection.md"] = {
            "selection": selection_table.picks(result),
            "selection-cost": selection_table.cost(result),
            "selection-shapes": selection_table.shapes(result),
        }
    if (RESULTS / "curriculum.json").is_file():
        found["docs/pretraining.md"] = {"curriculum": curriculum_table.table(load("curriculum"))}
    if (RESULTS / "graph.json").is_file():
        found["docs/graph.md"] = {"graph": graph_table.table(load("graph"))}
    found["docs/benchmarks.md"] = gathered()
    if proofs := proof_table.recorded(RESULTS):
        found["docs/jetson.md"] = {"verified": proof_table.table(proofs)}
    return found


def gathered() -> dict[str, str]:
    """The tables that need no explanation, on one page."""
    tables = {"main-job": listed(load("main_job"), "python -m benchmarks.main_job")}
    if (RESULTS / "runtime.json").is_file():
        parts = [listed(part, f"python -m benchmarks.runtime {name}") for name, part in load("runtime").items()]
        tables["runtime"] = "\n\n".join(parts)
    if (RESULTS / "engines.json").is_file():
        tables["engines"] = listed(load("engines"), "python -m benchmarks.engines --xl-blocks 9")
    for name in ("encoder", "encoder_drop"):
        if (RESULTS / f"{name}.json").is_file():
            tables[name.replace("_", "-")] = listed(load(name), f"python -m benchmarks.{name}")
    return tables


def write(path: Path, tables: dict[str, str]) -> None:
    """Write each table between its comments."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, opening, rest = text.partition(marked(name, "").partition("\n")[0])
        text = f"{before}{marked(name, table)}{rest.partition(END)[2]}" if opening else text
    path.write_text(text, encoding="utf-8")


def marked(name: str, content: str) -> str:
    """A table between the comments that name its source."""
    return f"<!-- {name}: python -m benchmarks.table --write -->\n{content}\n{END}"


def figures() -> str:
    """The main figures."""
    result = load("main_job")
    rows = [f"| {name} | {form.format(result['figures'][key])} |" for name, (key, form) in SPEED_ROWS.items()]
    command = " ".join(["python -m benchmarks.main_job", *(f"--{k} {v}" for k, v in result["arguments"].items())])
    caption = f"Measured {result['date']} on {result['machine']}, no GPU, with `{command}`."
    prefix, suffix = "CamVid test IoU ", ", fp16 [%]"
    classes = {
        key.removeprefix(prefix).removesuffix(suffix): value
        for key, value in result["figures"].items()
        if key.startswith(prefix)
    }
    each = "Test IoU in %, class by class: " + ", ".join(f"{name} {value:.0f}" for name, value in classes.items()) + "."
    return "\n".join(
        ["| the model that ships, {}x{} | |".format(*result["size"]), "|---|---|", *rows, "", each, "", caption]
    )


def accuracy() -> str:
    """The accuracy of the default recipe and its alternatives, task by task."""
    return "\n\n".join(accuracy_report.table(task, result) for task, result in load("accuracy").items())


def load(name: str) -> dict[str, Any]:
    """One benchmark's result."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
