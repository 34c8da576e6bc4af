"""The table of docs/pretraining.md, from benchmarks/results/curriculum.json."""

from __future__ import annotations

from typing import Any

COLUMNS = {"loss": (1, "{:.4f}"), "loss, less noisy half": (1, "{:.4f}"), "probe mIoU": (100, "{:.1f}")}
"""Figure -> factor and format."""


def table(result: dict[str, Any]) -> str:
    """Each rule's figures, its differences to uniform, and the timesteps that it kept last."""
    job, start = result["job"], result["start"]
    head = [
        "timesteps", "loss, all timesteps", "beyond uniform", "loss, less noisy half", "beyond uniform",
        "probe mIoU, %", "beyond uniform", "seconds", "kept last, by seed",
    ]  # fmt: skip
    before = [cell for name, (factor, form) in COLUMNS.items() for cell in (form.format(factor * start[name]), "")]
    rows = [["before", *before, "", ""]]
    for rule, values in result["rows"].items():
        cells = [
            "" if rule == "uniform" and kind != "own" else _interval(values[name][kind], factor, form)
            for name, (factor, form) in COLUMNS.items()
            for kind in ("own", "beyond uniform")
        ]
        name = "all, uniformly" if rule == "uniform" else f"{job['timesteps']} by `{rule}`"
        kept = dict.fromkeys(f"{min(steps)} to {max(steps)}" for steps in result["chosen"].get(rule, []))
        rows.append([name, *cells, f"{values['seconds']['own']['mean']:.0f}", ", ".join(kept)])
    caption = (
        f"Mean over {job['seeds']} seeds ± half of the 95 % interval, differences paired; {job['samples']:,} samples "
        f"from `{job['start']}`, loss on {2 * job['held_out']} images, probe on {job['labelled']} labelled ones. "
        f"Measured {result['date']} on {result['machine']}, with `python -m benchmarks.curriculum "
        f"--samples {job['samples']}`."
    )
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + caption


def _interval(cell: dict[str, float], factor: int, form: str) -> str:
    return f"{form.format(factor * cell['mean'])} ± {form.format(factor * cell['half'])}"
