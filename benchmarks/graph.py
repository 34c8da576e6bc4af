"""The deployed graph compared with the alternatives: latency, bytes, peak memory, cost of the export.

    python -m benchmarks.graph [--model shipped|xl|sd3|prx ...] [--repeats N] [--out runs/graph.json]

Every variant is a separate process on 2 threads, in interleaved rounds; figures are medians over the rounds. All start
from latents (the shipped model: from pixels); the autoencoder is timed separately. Weights are random but for the
shipped model, made once in a temporary folder (4 GB for SD3). All but PRX take about 20 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import process
from benchmarks.graph_variants import bf16_is_worth_it
from benchmarks.harness import save, stamp

REPEATS = {"shipped": 3, "xl": 2, "sd3": 1, "prx": 1}
ROUND = ("eager", "compiled", "plain", "ours", "ours-openvino-f32", "ours-openvino-bf16", "limit")
ONCE = ("compiled",)
"""Variants measured only in the first round: compiling takes minutes, and is not part of the figure."""
TITLES = {
    "eager": "(a) whole diffusers model with a hook, torch",
    "compiled": "(b) the same under torch.compile",
    "plain": "(c) plain export, truncated, timestep as input, ONNX Runtime",
    "ours": "(d) ours, ONNX Runtime",
    "ours-openvino-f32": "(e) ours, OpenVINO fp32",
    "ours-openvino-bf16": "(e) ours, OpenVINO bf16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(REPEATS), action="append")
    parser.add_argument("--repeats", type=int, help=f"rounds; {REPEATS} if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/graph.json"))
    arguments = parser.parse_args()
    record: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"models": {}}
    for key in arguments.model or REPEATS:
        with tempfile.TemporaryDirectory() as name:
            found = measure(key, Path(name), arguments.repeats or REPEATS[key])
        record["models"][key] = found
        show(found)
    record |= {**stamp(), "threads": 2}
    save(arguments.out, record)
    print(arguments.out)


def measure(key: str, folder: Path, repeats: int) -> dict[str, Any]:
    """All figures of one model."""
    from benchmarks.graph_models import SHAPES

    make = f"from pathlib import Path; from benchmarks.graph_models import make; make({key!r}, Path({str(folder)!r}))"
    finished("making the model", process.run([sys.executable, "-c", make]))
    exports = {name: variant(f"export-{name}", key, folder)[0] for name in ("plain", "ours")}
    names = [name for name in ROUND if name != "ours-openvino-bf16" or bf16_is_worth_it(key)]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            if turn == 0 or name not in ONCE:
                figures, peak = variant(name, key, folder)
                rounds[name].append(figures if name == "limit" else figures | {"peak [MB]": peak})
    medians = {name: middle(found) for name, found in rounds.items()}
    reference = outputs(folder / "eager.npz")
    limit = medians.pop("limit")
    for name, row in medians.items():
        row["difference"] = difference(outputs(folder / f"{name}.npz"), reference)
    found: dict[str, Any] = {"title": SHAPES[key].title, "repeats": repeats, "limit": limit, "variants": medians}
    if SHAPES[key].autoencoder is not None:
        found["autoencoder"] = variant("autoencoder", key, folder)[0]
    return found | {"exports": exports, "goals": goals(medians, limit)}


def variant(
    name: str, key: str, folder: Path, module: str = "benchmarks.graph_variants"
) -> tuple[dict[str, float], float]:
    """The figures of one variant of a module, and its process's peak megabytes."""
    command = [sys.executable, "-m", module, name, key, folder]
    done = finished(f"{key}: {name}", process.run(command))
    figures: dict[str, float] = json.loads(done.output.splitlines()[-1])
    return figures, done.peak_mb


def finished(what: str, done: process.Finished) -> process.Finished:
    """The finished process; ends the benchmark if it failed."""
    if done.code:
        sys.exit(f"{what}: {done.errors[-3000:]}")
    print(f"{what}: {done.seconds:.0f} s", file=sys.stderr, flush=True)
    return done


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def difference(got: list[Any], expected: list[Any]) -> float:
    """max |delta| / max |expected| over the taps."""
    pairs = zip(got, expected, strict=True)
    return max(float(np.abs(one.reshape(other.shape) - other).max() / np.abs(other).max()) for one, other in pairs)


def goals(variants: dict[str, dict[str, float]], limit: dict[str, float]) -> dict[str, float]:
    """The ratios that the graph is required to reach."""
    latency = {name: figures["latency [ms]"] for name, figures in variants.items()}
    ours = {"ours": "f32 [ms]", "ours-openvino-f32": "f32 [ms]", "ours-openvino-bf16": "bf16 [ms]"}
    return {
        "(d) / (a), latency": latency["ours"] / latency["eager"],
        "(d) / (c), latency": latency["ours"] / latency["plain"],
        "(d) / (c), bytes": variants["ours"]["bytes"] / variants["plain"]["bytes"],
        "ours on its best backend / limit of its type": min(
            latency[name] / limit[kind] for name, kind in ours.items() if name in latency
        ),
    }


def show(found: dict[str, Any]) -> None:
    """Print one model's figures."""
    print(f"{found['title']}, medians of {found['repeats']} rounds")
    for name, row in found["variants"].items():
        print(
            f"  {TITLES[name]:<62}{row['latency [ms]']:>10.1f} ms{row['bytes'] / 1e6:>9.1f} MB"
            f"{row['peak [MB]']:>9.0f} MB peak  difference {row['difference']:.0e}"
        )
    limit = found["limit"]
    print(f"  limit, the products alone: {', '.join(f'{name} {value:.1f}' for name, value in limit.items())}")
    for name, row in found["exports"].items():
        print(f"  export, {name}: {row['seconds']:.1f} s, {row['peak above imports [MB]']:.0f} MB above imports")
    for name, value in (found.get("autoencoder") or {}).items():
        print(f"  autoencoder's encoder, {name.partition(' [')[0]}: {value:.1f} ms")
    for name, value in found["goals"].items():
        print(f"  {name}: {value:.2f}")


def outputs(path: Path) -> list[Any]:
    """The outputs that a variant saved."""
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


if __name__ == "__main__":
    main()
