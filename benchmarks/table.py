"""The tables of README and docs, from the benchmarks' results.

python -m benchmarks.table [--write]    prints them, or writes them into their pages
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import (
    accuracy_report,
    clean_table,
    curriculum_table,
    families_table,
    foreign_table,
    frozen_table,
    goals_table,
    graph_table,
    input_size_table,
    model_card,
    models_table,
    proof_table,
    selection_table,
)
from benchmarks.harness import listed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- end -->"
GPU_RUNS = ("gpu-run-seg.json", "gpu-run.json")
"""Results of the GPU runs in docs, the latest first."""


def main() -> None:
    """Print the tables or write them into their pages."""
    for page, tables in pages().items():
        if "--write" in sys.argv[1:]:
            write(ROOT / page, tables)
        else:
            print("\n\n".join(tables.values()))


def pages() -> dict[str, dict[str, str]]:
    """The tables of each page, by name; those of benchmarks that have not been run are left out."""
    found = {}
    if (RESULTS / "models.json").is_file():
        found["README.md"] = {"models": models_table.table(load("models"))}
    if (RESULTS / "accuracy.json").is_file():
        found["docs/accuracy.md"] = {"accuracy": accuracy()}
    if (RESULTS / "models.json").is_file():
        runs = [json.loads((ROOT / "docs" / name).read_text(encoding="utf-8")) for name in GPU_RUNS]
        trained = [row for run in runs for row in run["rows"]]
        found.setdefault("docs/accuracy.md", {})["alternative"] = models_table.alternative(load("models"), trained)
    if (RESULTS / "foreign.json").is_file():
        found.setdefault("docs/accuracy.md", {})["foreign"] = foreign_table.table(load("foreign"))
    if (RESULTS / "selection.json").is_file():
        result = load("selection")
        found["docs/selection.md"] = {
            "selection": selection_table.picks(result),
            "selection-cost": selection_table.cost(result),
            "selection-shapes": selection_table.shapes(result),
            "selection-taught": model_card.choices(),
        }
    if (RESULTS / "curriculum.json").is_file():
        found["docs/pretraining.md"] = {"curriculum": curriculum_table.table(load("curriculum"))}
    if (RESULTS / "frozen.json").is_file():
        found.setdefault("docs/pretraining.md", {})["frozen"] = frozen_table.table(load("frozen"))
    found["weights/README.md"] = {"streets": model_card.streets(load("main_job")), "birds": model_card.birds()}
    if (RESULTS / "graph.json").is_file():
        found["docs/graph.md"] = {"graph": graph_table.table(load("graph"))}
    if (RESULTS / "families.json").is_file():
        found["docs/families.md"] = {"families": families_table.table(load("families"))}
    if (RESULTS / "clean.json").is_file():
        found["docs/training.md"] = {"clean": clean_table.table(load("clean"))}
    if (RESULTS / "input_size.json").is_file():
        found["docs/export.md"] = {"input-size": input_size_table.table(load("input_size"))}
    found["docs/benchmarks.md"] = gathered()
    if proofs := proof_table.recorded(RESULTS):
        found["docs/jetson.md"] = {"verified": proof_table.table(proofs)}
    return found


def gathered() -> dict[str, str]:
    """The tables that need no explanation, on one page."""
    missed = goals_table.table({name: load(name) for name in goals_table.recorded(RESULTS)})
    tables = {"missed": missed, "main-job": listed(load("main_job"), "python -m benchmarks.main_job")}
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


def accuracy() -> str:
    """The accuracy of the default recipe and its alternatives, task by task."""
    return "\n\n".join(accuracy_report.table(task, result) for task, result in load("accuracy").items())


def load(name: str) -> dict[str, Any]:
    """One benchmark's result."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
