"""The tables of docs/selection.md, from benchmarks/results/selection.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from aselect_edge.selection import STRATEGIES

NAMES = {"camvid": "CamVid, mIoU over tokens", "cub40": "cub40, accuracy"}


def picks(result: dict[str, Any]) -> str:
    """Accuracy, regret and cost of every strategy, then rank correlations."""
    found = [name for name in NAMES if name in result]
    return "\n\n".join([ranking([result[name] for name in found]), *(_data_set(NAMES[n], result[n]) for n in found)])


def ranking(parts: list[dict[str, Any]]) -> str:
    """The label-free strategies by regret over data sets and seeds, as a share of the exhaustive search's accuracy."""
    shares = {
        name: [share for part in parts for share in part["rows"][name]["regret shares"]]
        for name in parts[0]["rows"]
        if not STRATEGIES[name].labels
    }
    rows = []
    for name, own in sorted(shares.items(), key=lambda item: sum(item[1])):
        beyond = [mine - hfr for mine, hfr in zip(own, shares["hfr"], strict=True)]
        rows.append([f"`{name}`", _points(interval(own)), _points(interval(beyond))])
    head = ["without labels, all data sets and seeds", "regret, % of `exhaustive`'s accuracy", "beyond `hfr`'s, paired"]
    return _table(head, rows)


def _data_set(title: str, part: dict[str, Any]) -> str:
    job = part["job"]
    timed = "seconds" in part["rows"]["hfr"]
    head = ["strategy", title, "regret", "regret beyond `hfr`'s", "regret of its level", "passes", "picks"]
    head[-1:-1] = ["seconds"] if timed else []
    rows = [
        [
            f"`{name}`",
            *(_points(row[key]) for key in ("accuracy", "regret", "regret beyond hfr's", "regret of its level")),
            f"{row['passes']['mean']:,.0f}",
            *([f"{row['seconds']['mean']:.1f}"] if timed else []),
            ", ".join(dict.fromkeys(row["picks"])),
        ]
        for name, row in sorted(part["rows"].items(), key=lambda item: item[1]["regret"]["mean"])
    ]
    levels = part.get("sigmas", 21)
    options = ("" if levels == 21 else f" --sigmas {levels}") + ("" if timed else " --busy")
    caption = (
        f"In %, mean over {part['seeds']} seeds ± half of the 95 % interval; {job['imgsz'][0]}x{job['imgsz'][1]}, "
        f"{levels} noise levels, {job['unlabelled']} images without labels, {job['labelled']} to train on, "
        f"{job['tested']} of test to compare on, {part['steps']} steps a head. The best candidate on test has "
        f"{_points(part['best on test'])}. "
        f"Measured {part['date']} on {part['machine']}, with `python -m benchmarks.selection{options}`"
        f"{'.' if timed else ': the machine also did other work, so without times.'}"
    )
    adaptive = part["adaptive"]
    spent = adaptive["share of hfr's passes"]["mean"]
    answer = (
        f"`hfr-adaptive` spent {100 * spent:.1f} % of `hfr`'s passes, "
        f"took the same level in {100 * adaptive['same level']['mean']:.0f} % of the seeds and reached "
        f"{100 * adaptive['its share of the highest HFR']['mean']:.1f} % of the highest HFR."
    )
    rho = [
        [f"`{name}`", *(f"{values[key]['mean']:.2f} ± {values[key]['half']:.2f}" for key in values)]
        for name, values in part["rho"].items()
    ]
    measures = [[name, *(f"{value:.2f}" for value in values.values())] for name, values in part["measures"].items()]
    columns = list(next(iter(part["rho"].values())))
    return "\n\n".join(
        [
            _table(head, rows),
            caption,
            answer,
            _table(["Spearman's rho with that accuracy over", *columns], rho),
            _table(["HFR read as, seed 0", *columns], measures),
        ]
    )


def cost(result: dict[str, Any]) -> str:
    """The table of the cost of exhaustive over hfr."""
    parts = {NAMES[name].split(",")[0]: result[name]["cost"] for name in NAMES if name in result}
    keys = list(dict.fromkeys(key for part in parts.values() for key in part))
    rows = [[key, *(f"{part[key]:,.3g}" if key in part else "" for part in parts.values())] for key in keys]
    note = (
        "The shipped recipe caches the features of its augmented views of every training frame, and trains one "
        "head per noise level; its seconds are projected from the measured seconds per pass and per step."
    )
    return _table(["", *parts], rows) + "\n\n" + note


def shapes(result: dict[str, Any]) -> str:
    """The table of scans at the shapes of published models."""
    if "shapes" not in result:
        return ""
    part = result["shapes"]
    rows = [
        [name, f"{values['candidates']:,}", f"{values['seconds']:,.0f}", f"{values['peak memory [MB]']:,.0f}"]
        for name, values in part["figures"].items()
    ]
    note = (
        f"`hfr`, {part['sigmas']} noise levels x {part['images']} images, random weights, float32, without the "
        f"autoencoder, on {part['device']}. Measured {part['date']} on {part['machine']}, with "
        f"`python -m benchmarks.selection shapes --sigmas {part['sigmas']}`."
    )
    return _table(["scan", "candidates", "seconds", "peak memory, MB"], rows) + "\n\n" + note


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and half the width of its 95 % interval (Student's t); 0 for one value, because JSON has no NaN."""
    count = len(values)
    half = float(student.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5) if count > 1 else 0.0
    return {"mean": float(np.mean(values)), "half": half}


def _points(cell: dict[str, float]) -> str:
    return f"{100 * cell['mean']:.1f} ± {100 * cell['half']:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
