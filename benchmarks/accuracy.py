"""CamVid's mIoU and cub40's top-1 of the default recipe compared with alternatives, over several seeds.

    python -m benchmarks.accuracy [--task seg] [--only ROW] [--seeds 3] [--samples N] [--frozen-samples N]
    python -m benchmarks.accuracy --report

Frozen rows share a budget, and so do fine-tuning, the same architecture from scratch and the CNN; all rows share data,
views, input and, except the CNN, the head. A seed determines the initial weights of the head and of a random backbone,
the views and their order. The test split is only used to measure; val selects the best of the validated weights.

Each row and seed is `aselect-train` and `aselect-eval` in separate processes, below `--work`. Finished results are kept
and an interrupted row resumes, so several calls, with `--only`, may share the work. Needs $ASELECT_DATA and, for all
rows, hours of CPU. `--report` collects the existing results into `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aselect_edge.training.recipe import RECIPES
from aselect_runtime.files import atomic_write
from aselect_runtime.records import Bundle, Selection
from benchmarks.accuracy_report import gather, show
from benchmarks.accuracy_rows import (
    PLANS,
    ROWS,
    Job,
    Row,
    evaluate_command,
    selection_of,
    train_command,
)
from benchmarks.harness import load, save
from benchmarks.weights import weights_digest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(PLANS), help="both if left out")
    parser.add_argument("--only", choices=list(ROWS), action="append", help="more than once for several rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--samples", type=int, help="for fine-tuning, from scratch and the CNN; the recipe's if left out"
    )
    parser.add_argument("--frozen-samples", type=int, help="the recipe's if left out")
    parser.add_argument("--backbone", default="shipped")
    parser.add_argument("--selection", default="", help="a selection.json; the shipped bundle's if left out")
    parser.add_argument("--taps", default="", help="the selection's if left out, for seg after 0.hidden")
    parser.add_argument("--imgsz", default="")
    parser.add_argument("--head", default="")
    parser.add_argument("--threads", type=int, default=0, help="for training; 0 is all")
    parser.add_argument("--runs", type=int, default=40, help="per graph when latencies are compared")
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--report", action="store_true", help="only collect and print")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    arguments = parser.parse_args(argv)
    tasks = [arguments.task] if arguments.task else list(PLANS)
    if not arguments.task and any((arguments.selection, arguments.taps, arguments.imgsz, arguments.head)):
        parser.error("--selection, --taps, --imgsz and --head depend on the task: give --task too")
    if not arguments.report:
        if "ASELECT_DATA" not in os.environ:
            sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid and cub40; set it")
        for task in tasks:
            measure(arguments, task)
    before = load(arguments.out)
    found = {task: gather(arguments.work / task) for task in tasks if (arguments.work / task / "job.json").is_file()}
    show(found)
    save(arguments.out, before | found)
    print(arguments.out)


def measure(arguments: argparse.Namespace, task: Any) -> None:
    """Every requested row of a task that has no result yet, seed by seed, so that pairs are complete early."""
    plan = PLANS[task]
    job = Job(
        task=task,
        backbone=arguments.backbone,
        weights=weights_digest(arguments.backbone),
        selection=arguments.selection,
        taps=arguments.taps,
        imgsz=arguments.imgsz or plan.imgsz,
        head=arguments.head or plan.head,
        samples=arguments.samples or RECIPES[task].samples,
        frozen_samples=arguments.frozen_samples or RECIPES[task].samples,
        recipe=asdict(RECIPES[task]),
    )
    work, data = arguments.work / task, Path(os.environ["ASELECT_DATA"]) / plan.folder
    claim(work, job)
    for seed in range(arguments.seeds):
        for name in arguments.only or ROWS:
            if not (work / f"{name}-{seed}.json").is_file():
                print(f"{task}, {name}, seed {seed}", flush=True)
                run_row(job, name, seed, data, work, arguments.threads, arguments.runs)


def claim(work: Path, job: Job) -> None:
    """Assign the working folder to this job; exits with an error if it belongs to another one."""
    path = work / "job.json"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(job.to_json(), indent=2) + "\n")
        return
    theirs, ours = json.loads(path.read_text(encoding="utf-8")), job.to_json()
    differ = [f"{key} {theirs.get(key)!r}" for key in ours if theirs.get(key) != ours[key]]
    if differ:
        sys.exit(f"{path}: got rows of {', '.join(differ)}, expected this call's; choose another --work or remove it")


def run_row(job: Job, name: str, seed: int, data: Path, work: Path, threads: int, runs: int) -> None:
    """Train and measure one row with one seed, and write the result to `work`."""
    row = ROWS[name]
    selection = selection_of(job, row.level, seed, data, work)
    chosen = Selection.load(selection)
    reads = {
        "kind": row.kind,
        "random": row.random,
        "taps": job.taps_at(chosen, row.level),
        "timestep": chosen.noise.model_timestep,
    }
    others = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in work.glob(f"*-{seed}.json")
        if path.stem.rpartition("-")[0] in ROWS
    ]
    figures = next((other for other in others if other["reads"] == reads), None)  # two levels may be the same
    if figures is None:
        out = work / f"{name}-{seed}"
        if row.kind == "cnn":
            model, made = train_cnn(job, selection, seed, data, out, threads, runs)
        else:
            model, made = train_bundle(job, row, selection, seed, data, out, threads)
        found = json.loads(call(evaluate_command(model, data)))
        figures = {"test": found["score"], "per_class": found["per_class"], "samples": job.budget(row)} | made
    atomic_write(work / f"{name}-{seed}.json", json.dumps(figures | {"reads": reads}, indent=2) + "\n")


def train_bundle(
    job: Job, row: Row, selection: Path, seed: int, data: Path, out: Path, threads: int
) -> tuple[Path, dict[str, Any]]:
    """The bundle of a row, and its figure on val."""
    features = out.with_name(f"{out.name}.features")
    cached = ["--cache", str(features)] if row.kind == "frozen" else []
    call([*train_command(job, row, seed, selection, data, out, threads), *cached])
    shutil.rmtree(features, ignore_errors=True)  # gigabytes that no other row can use
    metrics = Bundle.load(out / "bundle.json").metrics
    return out, {"val": next(value for key, value in metrics.items() if key.startswith("val_"))}


def train_cnn(
    job: Job, selection: Path, seed: int, data: Path, out: Path, threads: int, runs: int
) -> tuple[Path, dict[str, Any]]:
    """The graph of the CNN, its figure on val, and the latency match with the deployed model."""
    outline = out.parent / "outline"
    if not (outline / "bundle.json").is_file():  # only the architecture, to match its latency
        call(train_command(job, ROWS["finetuned-random"], 0, selection, data, outline, threads, samples=1))
    options = {"--outline": outline, "--data": data, "--out": out, "--samples": job.samples, "--seed": seed}
    options_given = [
        str(part) for option in (options | {"--threads": threads, "--runs": runs}).items() for part in option
    ]
    call([sys.executable, "-m", "benchmarks.accuracy_cnn", *options_given])
    return out / "model.onnx", json.loads((out / "outcome.json").read_text(encoding="utf-8"))


def call(command: list[str]) -> str:
    """Run a command and return its standard output. Its progress is shown on this terminal."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[3:])}: exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
