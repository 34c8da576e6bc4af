"""The CNN's row of the accuracy benchmark: as fast as the deployed model, trained by the same loop, views and loss.

    python -m benchmarks.accuracy_cnn --outline BUNDLE --data DIR --out FOLDER [--samples N] [--seed S]

Its latency must match that of the bundle `--outline`; the width that does so is stored next to `--out`, for all seeds.
Writes `model.onnx`, which aselect-eval measures, and `outcome.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aselect_edge.bundle import load_bundle
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.training.answers import evaluate
from aselect_edge.training.goal import Goal, open_goal
from aselect_edge.training.loop import learn
from aselect_edge.training.recipe import RECIPES, Recipe
from aselect_export.graph import describe, trace, without_logits
from aselect_export.package import draft_manifest
from aselect_runtime.files import atomic_write
from aselect_runtime.processor import compute_threads
from aselect_runtime.records import Bundle
from benchmarks.cnn import build_cnn
from benchmarks.latency import latencies

WIDTHS = (0.05, 6.0)
CLOSE, TOLERANCE = 0.03, 0.10
"""Allowed deviation of the latencies' ratio from 1: for ending the search, and for accepting the result."""
TRIES = 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outline", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="for training; 0 is all")
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    match = matched(arguments.outline, out.with_name("latency-match.json"), arguments.runs)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    record = load_bundle(arguments.outline).record
    recipe = replace(RECIPES[record.task], samples=arguments.samples, seed=arguments.seed)
    torch.manual_seed(recipe.seed)
    model = build_cnn(record.task, len(record.classes), match["width"])
    learner = CnnLearner(model, open_goal(record.task, arguments.data, recipe), record, recipe)
    val = train(learner, out, width=match["width"])
    save_graph(model, record, out / "model.onnx")
    atomic_write(out / "outcome.json", json.dumps({"val": val, "match": match}, indent=2) + "\n")


@dataclass
class CnnLearner:
    """See aselect_edge.training.learners.Learner: the whole CNN, all of it trained from scratch."""

    module: nn.Module
    goal: Goal
    record: Bundle
    recipe: Recipe

    def __post_init__(self) -> None:
        rate = self.recipe.learning_rate
        self.groups = [{"params": list(self.module.parameters()), "lr": rate}]
        self.views = self.goal.views(self.record.imgsz, self.record.resize)

    def start(self) -> None:
        """See Learner."""
        return None

    def losses(self, step: int, rng: np.random.Generator) -> tuple[Tensor, float]:  # noqa: ARG002
        """See Learner."""
        pixels, labels = self.views.batch(rng)
        loss = self.goal.loss(self.module(pixels), labels)
        return loss, loss.item()

    def validate(self, module: nn.Module) -> Figures:
        """See Learner."""
        return evaluate(module, self.goal.val, self.record.imgsz, self.record.resize, self.recipe.batch)


def train(learner: CnnLearner, workdir: Path, **identity: Any) -> float:
    """Train in place to the best averaged weights on val; returns their figure there. An interrupted run resumes."""
    same = json.dumps({**identity, "imgsz": learner.record.imgsz, "recipe": asdict(learner.recipe)})
    state = learn(learner, learner.recipe, same, workdir, lambda _what, _share: None)
    learner.module.load_state_dict(state.best_weights)
    return state.best


def save_graph(model: nn.Module, record: Bundle, path: Path) -> None:
    """Write the graph of a CNN, with the outputs and the classes of the bundle that it is compared with."""
    with tempfile.TemporaryDirectory() as scratch:
        graph = without_logits(trace(model.eval(), record.task, 1, record.imgsz, Path(scratch)))
        describe(graph, draft_manifest(record.model_copy(update={"taps": ()}), graph, "fp32", ()))
        graph.write(path)


def matched(outline: Path, kept: Path, runs: int) -> dict[str, Any]:
    """The width with the deployed model's latency, and both latencies in ms; read from `kept` if it exists."""
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    bundle = load_bundle(outline)
    record = bundle.record
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = {name: folder / f"{name}.onnx" for name in ("dit", "cnn")}
        save_graph(bundle.deployed(), record, graphs["dit"])
        frame = np.random.default_rng(0).integers(0, 256, (1, *record.imgsz, 3), dtype=np.uint8)

        def latencies_at(width: float) -> tuple[float, float]:
            save_graph(build_cnn(record.task, len(record.classes), width), record, graphs["cnn"])
            found = latencies(graphs, frame, runs)
            print(f"width {width:.2f}: {found['cnn']:.1f} ms, model {found['dit']:.1f} ms", file=sys.stderr, flush=True)
            return found["dit"], found["cnn"]

        width, (dit_ms, cnn_ms) = search_width(latencies_at)
    if abs(cnn_ms / dit_ms - 1) > TOLERANCE:
        sys.exit(
            f"got {cnn_ms:.1f} ms for the CNN at width {width:.2f} and {dit_ms:.1f} ms for the model, expected the "
            f"same within {TOLERANCE:.0%}; run it again on an idle machine"
        )
    found = {"width": width, "dit_ms": dit_ms, "cnn_ms": cnn_ms, "threads": compute_threads()}
    atomic_write(kept, json.dumps(found, indent=2) + "\n")
    return found


def search_width(latencies_at: Callable[[float], tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    """The width at which the second latency is closest to the first, by bisection over its logarithm."""
    low, high = WIDTHS
    tried: dict[float, tuple[float, float]] = {}

    def distance(width: float) -> float:
        dit, cnn = tried[width]
        return abs(cnn / dit - 1)

    while len(tried) < TRIES:
        width = (low * high) ** 0.5
        tried[width] = dit, cnn = latencies_at(width)
        if distance(width) <= CLOSE:
            break
        low, high = (low, width) if cnn > dit else (width, high)
    best = min(tried, key=distance)
    return best, tried[best]


if __name__ == "__main__":
    main()
