"""The quality and the cost of every strategy's choice, on one backbone, CamVid and cub40.

    python -m benchmarks.selection [--seeds 3] [--only camvid] [--busy] [--out benchmarks/results/selection.json]
    python -m benchmarks.selection shapes [--sigmas 21] [--images 8] [--device cpu]

A seed determines the images, the noise and the heads. For each seed, the exhaustive search trains a linear head for
every candidate on train and chooses by val. The accuracy of a strategy is that of the head at its choice, on test,
which no strategy has seen; its regret is the difference to the exhaustive search's choice. So regrets are paired: one
table of accuracies, the same images. Intervals are Student's, 95 %, over seeds. With --busy, on a machine that also
does other work, no times are recorded. An interrupted run goes on after the last complete seed, which `runs/selection`
holds (remove it if the code has changed). Needs $ASELECT_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.data import open_segmentation
from aselect_edge.selection import Measure, Request, Settings, select_tap
from aselect_edge.selection.hfr import bands, ratio, spectrum
from aselect_edge.selection.run import gather_evidence, prepare_scan
from aselect_edge.team import Team
from aselect_edge.training import Recipe
from benchmarks import shapes
from benchmarks.harness import load, save, stamp
from benchmarks.selection_seeds import Job, Key, Runs, correlations, table_of
from benchmarks.selection_table import interval, ranking
from benchmarks.weights import weights_digest

WORK = Path("runs/selection")
MEASURES = [
    Measure(dimensions=d, power=p, cutoff=c, dc=dc)
    for d in (2, 1)
    for p in (True, False)
    for c in (0.15, 0.3)
    for dc in (False, True)
]


JOBS = (Job("camvid", "seg", (192, 256), 32, 40, 233), Job("cub40", "cls", (128, 128), 32, 200, 1111))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["picks", "shapes", "shape"], default="picks")
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--backbone", default="shipped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=[job.folder for job in JOBS])
    parser.add_argument("--unlabelled", type=int, help="images for the label-free strategies")
    parser.add_argument("--labelled", type=int, help="training images for those with labels, and as many of val")
    parser.add_argument("--steps", type=int, default=200, help="per head")
    parser.add_argument("--sigmas", type=int, default=21)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--busy", action="store_true", help="record no times: the machine also does other work")
    parser.add_argument("--work", type=Path, default=WORK, help="the complete seeds of an interrupted run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/selection.json"))
    arguments = parser.parse_args()
    if arguments.what == "shape":
        return shapes.scan_one(arguments.name, arguments.sigmas, arguments.images, arguments.device)
    if arguments.what == "shapes":
        return write(arguments.out, {"shapes": shapes.measure(arguments.sigmas, arguments.images, arguments.device)})
    if "ASELECT_DATA" not in os.environ:
        sys.exit("ASELECT_DATA is not set, expected the folder that holds camvid and cub40; set it")
    backbone = load_backbone(arguments.backbone)
    results = {}
    for job in JOBS:
        if arguments.only in (None, job.folder):
            sized = replace(
                job,
                unlabelled=arguments.unlabelled or job.unlabelled,
                labelled=arguments.labelled or job.labelled,
            )
            runs = Runs(
                backbone,
                weights_digest(arguments.backbone),
                sized,
                arguments.sigmas,
                arguments.steps,
                arguments.busy,
                arguments.work,
            )
            results[job.folder] = measure(runs, arguments.seeds)
            show(job.folder, results[job.folder])
            write(arguments.out, results)
    print(ranking(list(results.values())))


def write(path: Path, results: dict[str, Any]) -> None:
    """Add the results to the file, and keep those of other parts."""
    before = load(path)
    stamped = {
        **stamp(f"{torch.get_num_threads()} threads"),
    }
    after = before | {name: stamped | result for name, result in results.items()}
    save(path, after)
    print(path)


def measure(plan: Runs, seeds: int) -> dict[str, Any]:
    """Every figure of one data set."""
    backbone, job = plan.backbone, plan.job
    data = Path(os.environ["ASELECT_DATA"]) / job.folder
    runs = [plan.run(data, seed) for seed in range(seeds)]
    rows = {name: summary([run["rows"][name] for run in runs]) for name in runs[0]["rows"]}
    for name, row in rows.items():
        searched = [run["rows"]["exhaustive"]["accuracy"] for run in runs]
        row["regret shares"] = [
            run["rows"][name]["regret"] / max(best, 1e-9) for run, best in zip(runs, searched, strict=True)
        ]
        row["picks"] = [run["picks"].get(name, "any") for run in runs]
        paired = [run["rows"][name]["regret"] - run["rows"]["hfr"]["regret"] for run in runs]
        row["regret beyond hfr's"] = interval(paired)
    conv = conv_seconds_per_step(backbone, job, data) if job.task == "seg" and not plan.busy else None
    return {
        "job": asdict(job),
        "seeds": seeds,
        "steps": plan.steps,
        "sigmas": plan.sigmas,
        "weights": plan.weights,
        "rows": rows,
        "best on test": interval([max(table_of(run).values()) for run in runs]),
        "rho": {name: summary([run["rho"][name] for run in runs]) for name in runs[0]["rho"]},
        "measures": measures(backbone, job, data, plan.sigmas, table_of(runs[0])),
        "cost": cost(rows, job, data, conv),
        "adaptive": summary([run["adaptive"] for run in runs]),
    }


def measures(
    backbone: LoadedBackbone, job: Job, data: Path, sigmas: int, accuracy: dict[Key, float]
) -> dict[str, dict[str, float]]:
    """Which definition of HFR predicts accuracy: every setting over the same passes, seed 0, 1/4 of the images."""
    request = Request(images=job.unlabelled // 4, imgsz=job.imgsz, timesteps=backbone.schedule.candidates(sigmas))
    scan = prepare_scan(backbone, request, Team(), lambda _what, _share: None)
    evidence = gather_evidence(data, request, scan)

    def look(x0: torch.Tensor, noise: Any, _part: range) -> torch.Tensor:
        return scan.readings(x0, noise, readings)

    sums = scan.sweep(evidence.images, look, 2 * len(MEASURES), "measures").unflatten(2, (len(MEASURES), 2))
    found = {}
    for index, each in enumerate(MEASURES):
        table = ratio(sums[:, :, index])
        values = {
            (str(tap), level.model_timestep): float(table[row, column])
            for row, level in enumerate(scan.levels)
            for column, tap in enumerate(scan.taps)
        }
        found[str(each)] = correlations(values, accuracy)
    return found


def readings(feature: torch.Tensor) -> torch.Tensor:
    """High and total energy of a feature for every setting, (2·settings,), from its four spectra."""
    kinds = {(m.dimensions, m.power): spectrum(feature, m) for m in MEASURES}
    return torch.stack([bands(kinds[m.dimensions, m.power], m).sum(0) for m in MEASURES]).flatten()


def conv_seconds_per_step(backbone: LoadedBackbone, job: Job, data: Path, steps: int = 20) -> float:
    """Seconds of one step of the default head of `aselect-train`, on cached features."""
    settings = (Settings(head="conv", steps=1), Settings(head="conv", steps=1 + steps))
    seconds = []
    for each in settings:
        request = Request("exhaustive", images=8, imgsz=job.imgsz, timesteps=[0], components=("query",), settings=each)
        selection = select_tap(backbone, data, request)
        assert selection.cost is not None
        seconds.append(selection.cost.seconds)
    return (seconds[1] - seconds[0]) / (steps * backbone.model.depth)


def cost(rows: dict[str, Any], job: Job, data: Path, conv: float | None) -> dict[str, float]:
    """Cost of exhaustive over hfr: as measured, and for the default recipe (passes counted, seconds projected).

    The recipe caches `views` augmented views of every training frame and trains one head a noise level, at one tap.
    """
    hfr, exhaustive = rows["hfr"], rows["exhaustive"]
    found = {
        "passes, exhaustive here / hfr": exhaustive["passes"]["mean"] / hfr["passes"]["mean"],
    }
    if "seconds" in hfr:
        found["seconds, exhaustive here / hfr"] = exhaustive["seconds"]["mean"] / hfr["seconds"]["mean"]
    if conv is None:
        return found
    recipe, levels = Recipe(), hfr["passes"]["mean"] / job.unlabelled
    frames = recipe.views * len(open_segmentation(data, "train")) + len(open_segmentation(data, "val"))
    a_pass = hfr["seconds"]["mean"] / hfr["passes"]["mean"]  # with its spectra, so slower than a pass alone
    seconds = levels * (frames * a_pass + recipe.samples / recipe.batch * conv)
    return found | {
        "passes, exhaustive by the shipped recipe": levels * frames,
        "passes, shipped recipe / hfr": levels * frames / hfr["passes"]["mean"],
        "seconds a step of the shipped head": conv,
        "seconds, exhaustive by the shipped recipe, projected": seconds,
        "seconds, shipped recipe / hfr, projected": seconds / hfr["seconds"]["mean"],
    }


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and interval of each figure over the seeds."""
    return {name: interval([run[name] for run in runs]) for name in runs[0]}


def show(name: str, result: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"\n{name}: {result['job']}, {result['seeds']} seeds, {result['steps']} steps a head")
    for row, values in result["rows"].items():
        cells = "  ".join(
            f"{key} {cell['mean']:.4g} ± {cell['half']:.2g}" for key, cell in values.items() if isinstance(cell, dict)
        )
        print(f"  {row:<15}{cells}  {values['picks']}")
    for part in ("rho", "measures"):
        for row, values in result[part].items():
            figures = {key: v["mean"] if isinstance(v, dict) else v for key, v in values.items()}
            print(f"  {part} {row}: {', '.join(f'{key} {v:.2f}' for key, v in figures.items())}")
    for row, value in (result["cost"] | result["adaptive"]).items():
        print(f"  {row:<56}{value['mean'] if isinstance(value, dict) else value:.4g}")


if __name__ == "__main__":
    main()
