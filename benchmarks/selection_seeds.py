"""One seed of the comparison of strategies: every strategy's choice, scored by one exhaustive table of accuracies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.selection import STRATEGIES, Request, Settings, select_tap
from aselect_runtime.records import Selection, Task
from benchmarks.harness import load, save

SCORED = ("hfr", "hfr-signal", "probe")
"""Strategies whose scores are compared with the accuracies, candidate by candidate."""

Key = tuple[str, float]
"""Tap and timestep."""


@dataclass(frozen=True)
class Job:
    """A data set and the number of images used."""

    folder: str
    task: Task
    imgsz: tuple[int, int]
    unlabelled: int
    labelled: int


@dataclass(frozen=True)
class Runs:
    """The seeds of one data set, each run once and kept in `work`."""

    backbone: LoadedBackbone
    weights: str
    """Digest of the backbone's weights."""
    job: Job
    sigmas: int
    steps: int
    busy: bool
    """Whether the machine also does other work: the times are not recorded."""
    work: Path

    def run(self, data: Path, seed: int) -> dict[str, Any]:
        """A seed's figures, from `work` if it holds them for the same weights and settings."""
        settings = json.dumps([self.weights, asdict(self.job), self.sigmas, self.steps, self.busy, seed])
        path = self.work / f"{self.job.folder}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.json"
        if not path.is_file():
            found = run_seed(self.backbone, self.job, data, seed, self.sigmas, self.steps)
            for row in found["rows"].values() if self.busy else ():
                del row["seconds"]
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, found)
        return load(path)


def table_of(run: dict[str, Any]) -> dict[Key, float]:
    """A seed's accuracy by tap and timestep."""
    return {(tap, level): value for tap, level, value in run["table"]}


def run_seed(backbone: LoadedBackbone, job: Job, data: Path, seed: int, sigmas: int, steps: int) -> dict[str, Any]:
    """Run every strategy once: choices, regrets and costs against one table of accuracies; plain JSON."""
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
        "table": [[tap, level, value] for (tap, level), value in accuracy.items()],
        "best": best,
        "adaptive": {
            "same level and tap": float(pick == few),
            "same level": float(pick[1] == few[1]),
            "its share of the highest HFR": plain[few] / plain[pick],
            "share of hfr's passes": rows["hfr-adaptive"]["passes"] / rows["hfr"]["passes"],
            "resolved": float(found["hfr-adaptive"].parameters["resolved"]),
        },
    }


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
