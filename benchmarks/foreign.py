"""Data sets that the included models have not seen, trained as a newcomer does: with the commands of `aselect-init`.

    python -m benchmarks.foreign --clones CLONES [--only crops] [--row finetuned] [--seeds 1] [--threads 1]

`benchmarks/foreign_data.py` has the sets and the commands that clone them. Each set is selected on by a labelled probe,
then trained frozen (with the head that `aselect-init` proposes), fine-tuned, and fine-tuned from random weights. The
common alternative is fine-tuned with the same head, input, views and budget as these two: the ImageNet encoder that
taught the backbone. Scores are of the test split, latencies of the graphs in fp32 on ONNX Runtime, in turns.
Finished rows are kept below --work, so several calls may share the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from aselect_edge.bundle import load_bundle
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_edge.training.goal import open_goal
from aselect_edge.training.recipe import HEADS, RECIPES
from aselect_runtime.errors import InputError
from aselect_runtime.files import atomic_write
from aselect_runtime.records import HeadKind, Selection, Task
from benchmarks.accuracy import call, claim, run_row
from benchmarks.accuracy_cnn import CnnLearner, save_graph, train
from benchmarks.accuracy_rows import Job, evaluate_command
from benchmarks.foreign_data import prepare
from benchmarks.harness import load, save, stamp
from benchmarks.latency import latencies
from benchmarks.weights import weights_digest
from research.row_learner import TeacherModel

ROWS = ("frozen", "finetuned", "finetuned-random", "teacher")
SELECT = "from aselect_edge.commands.select import select; select()"
RESULT = Path("benchmarks/results/foreign.json")


@dataclass(frozen=True)
class ForeignSet:
    """What aselect-init proposes for a set, and a budget that a CPU can afford."""

    task: Task
    imgsz: str
    head: HeadKind
    """Of the frozen row; the others have the task's default, which is better where there is time for it."""
    samples: int


SETS = {
    "crops": ForeignSet("seg", "208x288", "linear", 2000),
    "cracks": ForeignSet("seg", "208x304", "linear", 2000),
    "flowers": ForeignSet("cls", "128x128", "attention", 6000),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=Path, required=True, help="folder of the cloned repositories")
    parser.add_argument("--only", choices=list(SETS), action="append")
    parser.add_argument("--row", choices=ROWS, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=128, help="for the selection")
    parser.add_argument("--samples", type=int, help="of every row, instead of the set's own budget")
    parser.add_argument("--threads", type=int, default=0, help="0 is all")
    parser.add_argument("--work", type=Path, default=Path("runs/foreign"))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)
    data = arguments.work / "data"
    prepare(arguments.clones, data)
    for name in arguments.only or SETS:
        measure(name, arguments, data / name)
        save(arguments.out, load(arguments.out) | {name: gather(name, arguments.work / name)})
    print(arguments.out)


def measure(name: str, arguments: argparse.Namespace, data: Path) -> None:
    """Every requested row of a set that has no result yet, in its own working folder."""
    found, work = SETS[name], arguments.work / name
    samples = arguments.samples or found.samples
    selection = work / "selection.json"
    if not selection.is_file():
        options = {"--data": data, "--task": found.task, "--imgsz": found.imgsz, "--strategy": "probe"}
        options |= {"--images": arguments.images, "--threads": arguments.threads, "--out": selection}
        call([sys.executable, "-c", SELECT, "shipped", *(str(part) for option in options.items() for part in option)])
    job = Job(
        task=found.task,
        backbone="shipped",
        weights=weights_digest("shipped"),
        selection=str(selection),
        taps=str(Selection.load(selection).tap),
        imgsz=found.imgsz,
        head=HEADS[found.task].kind,
        samples=samples,
        frozen_samples=samples,
        recipe=asdict(RECIPES[found.task]),
    )
    claim(work, job)
    for seed in range(arguments.seeds):
        for row in arguments.row or ROWS:
            result = work / f"{row}-{seed}.json"
            if result.is_file():
                continue
            print(f"{name}, {row}, seed {seed}", flush=True)
            if row == "teacher":
                train_teacher(job, seed, data, work, arguments.threads)
            else:
                of_row = replace(job, head=found.head) if row == "frozen" else job
                run_row(of_row, row, seed, data, work, arguments.threads, runs=0)


class TeacherLearner(CnnLearner):
    """The pretrained encoder at a tenth of the head's learning rate, which is the common choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        model, rate = cast(TeacherModel, self.module), self.recipe.learning_rate
        parts = ((model.head, rate), (model.encoder.requires_grad_(), 0.1 * rate))
        self.groups = [{"params": list(part.parameters()), "lr": lr} for part, lr in parts]


def train_teacher(job: Job, seed: int, data: Path, work: Path, threads: int) -> None:
    """Train the teacher as the fine-tuned model was, and compare their scores and their graphs' latencies."""
    outline, out = work / f"finetuned-{seed}", work / f"teacher-{seed}"
    if not (outline / "bundle.json").is_file():
        raise InputError(f"{outline}: no such bundle, expected that of the row finetuned; train it first")
    bundle = load_bundle(outline)
    record = bundle.record
    recipe = replace(RECIPES[job.task], samples=job.samples, seed=seed)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = TeacherModel(load_efficientnet(), job.task, record.head, len(record.classes))
    out.mkdir(exist_ok=True)
    learner = TeacherLearner(model, open_goal(job.task, data, recipe), record, recipe)
    val = train(learner, out)
    graphs = {"teacher": out / "model.onnx", "finetuned": out / "finetuned.onnx"}
    save_graph(model.eval(), record, graphs["teacher"])
    save_graph(bundle.deployed(), record, graphs["finetuned"])
    found = json.loads(call(evaluate_command(graphs["teacher"], data)))
    frame = np.random.default_rng(0).integers(0, 256, (1, *record.imgsz, 3), dtype=np.uint8)
    figures = {"test": found["score"], "per_class": found["per_class"], "samples": job.samples, "val": val}
    atomic_write(work / f"teacher-{seed}.json", json.dumps(figures | {"ms": latencies(graphs, frame, 40)}, indent=2))


def gather(name: str, work: Path) -> dict[str, Any]:
    """The finished rows of a set: test score [0, 1] of every seed."""
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    chosen = Selection.load(work / "selection.json")
    rows = {
        row: [json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob(f"{row}-[0-9]*.json"))]
        for row in ROWS
    }
    return {
        **stamp(),
        "task": job["task"],
        "imgsz": job["imgsz"],
        "head": {"frozen": SETS[name].head, "others": job["head"]},
        "samples": job["samples"],
        "selected": [str(chosen.tap), chosen.noise.model_timestep],
        "rows": {row: [found["test"] for found in seeds] for row, seeds in rows.items() if seeds},
        "ms": rows["teacher"][0]["ms"] if rows["teacher"] else None,
    }


if __name__ == "__main__":
    main()
