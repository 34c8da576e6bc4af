"""One seed of the comparison of strategies: every strategy's choice, scored by one table of accuracies on test."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.selection import STRATEGIES, Request, Settings, select_tap
from aselect_edge.selection.by_exhaustive import by_exhaustive
from aselect_edge.selection.evidence import open_labelled
from aselect_edge.selection.run import gather_evidence, prepare_scan
from aselect_edge.team import Team
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
    """For the strategies that use no labels."""
    labelled: int
    """Of train, and at most as many of val, for those that do."""
    tested: int
    """Of test, which no strategy sees: the choices are compared on these."""


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
    requests = {name: request_of(name, backbone, job, seed, sigmas, steps) for name in STRATEGIES}
    found = {}
    for name, request in requests.items():
        found[name] = select_tap(backbone, data, request)
        print(
            f"{job.folder}, seed {seed}: {name} {found[name].tap} at {found[name].noise.model_timestep:g}", flush=True
        )
    accuracy = on_test(backbone, job, data, requests["exhaustive"])
    rows = rows_of(found, accuracy)
    plain = scores(found["hfr"])
    pick, few = key_of(found["hfr"]), key_of(found["hfr-adaptive"])
    return {
        "rows": rows,
        "picks": {name: f"{s.tap} at {s.noise.model_timestep:g}" for name, s in found.items() if name != "uniform"},
        "rho": {name: correlations(scores(found[name]), accuracy) for name in SCORED},
        "table": [[tap, level, value] for (tap, level), value in accuracy.items()],
        "adaptive": {
            "same level and tap": float(pick == few),
            "same level": float(pick[1] == few[1]),
            "its share of the highest HFR": plain[few] / plain[pick],
            "share of hfr's passes": rows["hfr-adaptive"]["passes"] / rows["hfr"]["passes"],
            "resolved": float(found["hfr-adaptive"].parameters["resolved"]),
        },
    }


def request_of(strategy: str, backbone: LoadedBackbone, job: Job, seed: int, sigmas: int, steps: int) -> Request:
    """What a strategy is asked for."""
    return Request(
        strategy=strategy,
        task=job.task,
        images=job.labelled if STRATEGIES[strategy].labels else job.unlabelled,
        imgsz=job.imgsz,
        timesteps=None if strategy == "fixed" else backbone.schedule.candidates(sigmas),
        seed=seed,
        settings=Settings(steps=steps),
    )


def on_test(backbone: LoadedBackbone, job: Job, data: Path, exhaustive: Request) -> dict[Key, float]:
    """The accuracy, on test, of the heads that the exhaustive search trains: the same seed gives the same heads."""
    scan = prepare_scan(backbone, exhaustive, Team())
    evidence = gather_evidence(data, exhaustive, scan)
    test = open_labelled(data, "test", job.task, job.tested, exhaustive.seed, scan.imgsz, scan.resize)
    chosen = by_exhaustive(scan, replace(evidence, val=test), exhaustive.settings)
    return {(str(score.tap), score.noise.model_timestep): score.value for score in chosen.scores}


def rows_of(found: dict[str, Selection], accuracy: dict[Key, float]) -> dict[str, dict[str, float]]:
    """Every strategy's accuracy, cost, and regret: how far it is below the exhaustive search's choice.

    The regret of its level compares the best taps of the two noise levels.
    """
    best_at: dict[float, float] = {}
    for (_, level), value in accuracy.items():
        best_at[level] = max(value, best_at.get(level, value))
    at = {name: nearest(accuracy, selection) for name, selection in found.items()}
    reached = {name: (accuracy[key], best_at[key[1]]) for name, key in at.items()}
    # A single draw has no significance, so its expectation is used.
    reached["uniform"] = float(np.mean(list(accuracy.values()))), float(np.mean(list(best_at.values())))
    searched = reached["exhaustive"]
    rows = {}
    for name, selection in found.items():
        assert selection.cost is not None
        rows[name] = {
            "accuracy": reached[name][0],
            "regret": searched[0] - reached[name][0],
            "regret of its level": searched[1] - reached[name][1],
            "passes": float(selection.cost.forward_passes),
            "seconds": selection.cost.seconds,
        }
    return rows


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
