"""The table of docs/training.md, from the result of `python -m benchmarks.clean`."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    """mIoU of each kind of features, paired over seeds, and what another draw of the noise changes."""
    head = [
        "| features | mIoU | against noisy, same seed | std of mIoU over draws | pixels that change | cosine on val |",
        "|---|---|---|---|---|---|",
    ]
    job = result["job"]
    caption = (
        f"Shipped backbone at timestep {job['timestep']:g}, `{job['tap']}`, CamVid at 96x128, linear head of "
        f"{job['samples']:g} views, {job['clean_samples']:g} images for the copy at {job['clean_lr']:g}, means over "
        f"{len(next(iter(result['runs'].values())))} seeds, every {job['every']:g}th image of test. "
        f"Measured {result['date']} on {result['machine']} with `python -m benchmarks.clean`."
    )
    return "\n".join([*head, *(_row(kind, row) for kind, row in result["rows"].items()), "", caption])


def _row(kind: str, row: dict[str, float]) -> str:
    gain = "" if kind == "noisy" else f"{100 * row['gain']:+.1f} ± {100 * row['gain, std']:.1f}"
    cosine = f"{row['cosine, before']:.3f} to {row['cosine']:.3f}" if "cosine" in row else ""
    return (
        f"| {kind} | {100 * row['mIoU']:.1f} % | {gain} | {100 * row['mIoU, std over draws']:.2f} "
        f"| {100 * row['pixels that change']:.2f} % | {cosine} |"
    )
