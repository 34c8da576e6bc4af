"""The quality and the cost of every strategy's choice, on one backbone, CamVid and cub40.

    python -m benchmarks.selection [--seeds 3] [--only camvid] [--out benchmarks/results/selection.json]
    python -m benchmarks.selection shapes [--sigmas 21] [--images 8] [--device cpu]

A seed determines the images, the noise and the heads. For each seed, the exhaustive search trains a linear head for
every candidate; the accuracy of a strategy is that of the head at its choice, its regret the difference to the best. So
regrets are paired: one table of accuracies, the same images. Intervals are Student's, 95 %, over seeds. Needs
$ASELECT_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.data import open_segmentation
from aselect_edge.selection import STRATEGIES, Measure, Request, Settings, select_tap
from aselect_edge.selection.hfr import bands, ratio, spectrum
from aselect_edge.selection.run import gather_evidence, prepare_scan
from aselect_edge.team import Team
from aselect_edge.training import Recipe
from aselect_runtime.records import Selection, Task
from benchmarks import shapes
from benchmarks.harness import load, save, stamp
from benchmarks.selection_table import interval, ranking
from benchmarks.weights import weights_digest

Table = NDArray[np.float64]
SCORED = ("hfr", "hfr-signal", "probe")
"""Strategies whose scores are compared with the accuracies, candidate by candidate."""
MEASURES = [
    Measure(dimensions=d, power=p, cutoff=c, dc=dc)
    for d in (2, 1)
    for p in (True, False)
    for c in (0.15, 0.3)
    for dc in (False, True)
]


@dataclass(frozen=True)
class Job:
    """A data set and the number of images used."""

    folder: str
    task: Task
    imgsz: tuple[int, int]
    unlabelled: int
    labelled: int


JOBS = (Job("camvid", "seg", (96, 128), 32, 40), Job("cub40", "cls", (64, 64), 32, 100))


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
            results[job.folder] = measure(
                backbone, weights_digest(arguments.backbone), sized, arguments.seeds, arguments.sigmas, arguments.steps
            )
            show(job.folder, results[job.folder])
    print(ranking(list(results.values())))
    write(arguments.out, results)


def write(path: Path, results: dict[str, Any]) -> None:
    """Add the results to the file, and keep those of other parts."""
    before = load(path)
    stamped = {
        **stamp(f"{torch.get_num_threads()} threads"),
    }
    after = before | {name: stamped | result for name, result in results.items()}
    save(path, after)
    print(path)


def measure(backbone: LoadedBackbone, weights: str, job: Job, seeds: int, sigmas: int, steps: int) -> dict[str, Any]:
    """Every figure of one data set."""
    data = Path(os.environ["ASELECT_DATA"]) / job.folder
    runs = [run_seed(backbone, job, data, seed, sigmas, steps) for seed in range(seeds)]
    rows = {name: summary([run["rows"][name] for run in runs]) for name in runs[0]["rows"]}
    for name, row in rows.items():
        row["regret shares"] = [run["rows"][name]["regret"] / max(run["best"], 1e-9) for run in runs]
        row["picks"] = [run["picks"].get(name, "any") for run in runs]
        paired = [run["rows"][name]["regret"] - run["rows"]["hfr"]["regret"] for run in runs]
        row["regret beyond hfr's"] = interval(paired)
    conv = conv_seconds_per_step(backbone, job, data) if job.task == "seg" else None
    return {
        "job": asdict(job),
        "seeds": seeds,
        "steps": steps,
        "weights": weights,
        "rows": rows,
        "rho": {name: summary([run["rho"][name] for run in runs]) for name in runs[0]["rho"]},
        "measures": measures(backbone, job, data, sigmas, runs[0]["table"]),
        "cost": cost(rows, job, data, conv),
        "adaptive": summary([run["adaptive"] for run in runs]),
    }


def run_seed(backbone: LoadedBackbone, job: Job, data: Path, seed: int, sigmas: int, steps: int) -> dict[str, Any]:
    """Run every strategy once: choices, regrets and costs against one table of accuracies."""
    found = {}
    for name, entry in STRATEGIES.items():
        request = Request(
            strategy=name,
            task=job.task,
            images=job.labelled if entry.labels else job.unlabelled,
            imgsz=job.imgsz,
            timesteps=None if name == "fixed" else backbone.schedule.candidates(sigmas),
            seed=seed,
            settings=Settings(steps=steps),
        )
        found[name] = select_tap(backbone, data, request)
        print(
            f"{job.folder}, seed {seed}: {name} {found[name].tap} at {found[name].noise.model_timestep:g}", flush=True
        )
    accuracy = scores(found["exhaustive"])
    rows, best = {}, max(accuracy.values())
    levels = {level for _, level in accuracy}
    for name, selection in found.items():
        at = nearest(accuracy, selection)
        of_level = max(accuracy[key] for key in accuracy if key[1] == at[1])
        assert selection.cost is not None
        rows[name] = {
            "accuracy": accuracy[at],
            "regret": best - accuracy[at],
            "regret of its level": best - of_level,
            "passes": float(selection.cost.forward_passes),
            "seconds": selection.cost.seconds,
        }
    # A single draw has no significance, so its expectation is used.
    rows["uniform"]["accuracy"] = float(np.mean(list(accuracy.values())))
    rows["uniform"]["regret"] = best - rows["uniform"]["accuracy"]
    per_level = [max(value for (_, at), value in accuracy.items() if at == level) for level in levels]
    rows["uniform"]["regret of its level"] = best - float(np.mean(per_level))
    plain = scores(found["hfr"])
    pick, few = key_of(found["hfr"]), key_of(found["hfr-adaptive"])
    return {
        "rows": rows,
        "picks": {name: f"{s.tap} at {s.noise.model_timestep:g}" for name, s in found.items() if name != "uniform"},
        "rho": {name: correlations(scores(found[name]), accuracy) for name in SCORED},
        "table": accuracy,
        "best": best,
        "adaptive": {
            "same level and tap": float(pick == few),
            "same level": float(pick[1] == few[1]),
            "its share of the highest HFR": plain[few] / plain[pick],
            "share of hfr's passes": rows["hfr-adaptive"]["passes"] / rows["hfr"]["passes"],
            "resolved": float(found["hfr-adaptive"].parameters["resolved"]),
        },
    }


Key = tuple[str, float]


def key_of(selection: Selection) -> Key:
    """Tap and timestep of a choice."""
    return str(selection.tap), selection.noise.model_timestep


def nearest(accuracy: dict[Key, float], selection: Selection) -> Key:
    """The candidate of the table at the chosen tap and the nearest timestep (`fixed` has its own timesteps)."""
    tap, step = key_of(selection)
    return tap, min((level for name, level in accuracy if name == tap), key=lambda level: abs(level - step))


def scores(selection: Selection) -> dict[Key, float]:
    """Score by tap and timestep."""
    return {(str(score.tap), score.noise.model_timestep): score.value for score in selection.scores}


def correlations(values: dict[Key, float], accuracy: dict[Key, float]) -> dict[str, float]:
    """Spearman's rho over all candidates, and over the noise levels of one tap: median over taps."""
    keys = sorted(accuracy)
    taps = sorted({tap for tap, _ in keys})
    each = []
    for tap in taps:
        mine = [key for key in keys if key[0] == tap]
        each.append(rho([values[k] for k in mine], [accuracy[k] for k in mine]))
    return {
        "sigma x block x component": rho([values[k] for k in keys], [accuracy[k] for k in keys]),
        "sigma, median over taps": float(np.median(each)),
    }


def rho(a: list[float], b: list[float]) -> float:
    """Spearman's rho; 0 if all values of one side are tied."""
    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else 0.0


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
        "seconds, exhaustive here / hfr": exhaustive["seconds"]["mean"] / hfr["seconds"]["mean"],
    }
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
