"""Each family at its published shape, on random weights: the deployed graph compared with the unfolded model.

    python -m benchmarks.families [--family dit ...] [--no-latency] [--out benchmarks/results/families.json]

Read at the query of the block at half depth, from latents or, for JiT, pixels. Every step is a process of its own.
Latencies, on 2 threads, mean something on an idle machine only: --no-latency leaves them out, and so does not load the
whole models. Adds to the results of other runs in the file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.family_models import SHAPES, tap_of
from benchmarks.graph import difference, outputs, variant
from benchmarks.harness import load, save, stamp

MODULE = "benchmarks.family_variants"
GOALS = {"latency": 0.40, "fold error": 1e-5, "peak / bytes": 2.5}
"""Largest value that is meant to be reached; that of the bytes depends on the family's adaLN."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measured = list(SHAPES)
    parser.add_argument("--family", choices=measured, action="append")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/families.json"))
    arguments = parser.parse_args()
    for key in arguments.family or measured:
        with tempfile.TemporaryDirectory() as name:
            found = measure(key, Path(name), latency=not arguments.no_latency)
        record = load(arguments.out) or {"families": {}}
        record["families"][key] = found
        save(arguments.out, record | stamp())
        print(found["title"], {name: f"{value:.3g}" for name, value in found["figures"].items()}, flush=True)


def measure(key: str, folder: Path, latency: bool) -> dict[str, Any]:
    """All figures of one family."""

    def step(name: str) -> dict[str, float]:
        return variant(name, key, folder, MODULE)[0]

    step("make" if latency else "make-truncated")
    plain, ours = step("export-plain"), step("export-ours")
    step("reference"), step("outputs")
    figures = {
        "bytes": ours["bytes"],
        "bytes, plain": plain["bytes"],
        "bytes / plain": ours["bytes"] / plain["bytes"],
        "fold error": difference(outputs(folder / "outputs.npz"), outputs(folder / "reference.npz")),
        "peak / bytes": ours["peak above imports [MB]"] * 1e6 / ours["bytes"],
        "peak / bytes, plain": plain["peak above imports [MB]"] * 1e6 / plain["bytes"],
        **step("engine"),
    }
    if latency:
        whole, deployed = (step(name)["latency [ms]"] for name in ("whole", "ours"))
        figures |= {"latency, whole [ms]": whole, "latency [ms]": deployed, "latency": deployed / whole}
    shape = SHAPES[key]
    goals = GOALS | {"bytes / plain": shape.bytes_goal}
    return {"title": shape.title, "note": shape.note, "tap": str(tap_of(key)), "figures": figures, "goals": goals}


if __name__ == "__main__":
    main()
