"""Train one row of the comparison, or a candidate for a bundle: `python -m research.rows --task seg --row finetuned`.

The same trainings as in the GPU run, one by one and on any device. An interrupted command resumes from its checkpoint;
see research/row_training.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import typer

from aselect_edge.backbones.device import find_device
from aselect_runtime.commands.entry import entry
from aselect_runtime.options import choice
from aselect_runtime.progress import terminal_progress
from aselect_runtime.records import Task
from research.row_jobs import ROWS, Job, Sources, included_selection, jobs
from research.row_training import train_row


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds camvid and cub40.")],
    task: Annotated[Task, typer.Option(help="seg (CamVid) or cls (cub40).")] = "seg",
    row: Annotated[
        str, typer.Option(help=f"{', '.join(ROWS)}, or a guided candidate such as ship-edge.")
    ] = "finetuned",
    out: Annotated[Path, typer.Option(help="Folder for result, bundle and checkpoint.")] = Path("runs/rows"),
    backbone: Annotated[str, typer.Option(help="Backbone, as in aselect-train.")] = "shipped",
    selection: Annotated[Path | None, typer.Option(help="The included bundle's selection if left out.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this time, of all calls together.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Views to train on; the recipe's if left out.")] = None,
    batch: Annotated[int | None, typer.Option(min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the head.")] = None,
    backbone_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the backbone.")] = None,
    validations: Annotated[
        int | None, typer.Option(min=1, help="Number of validations, each with a checkpoint.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A bundle to continue from, or the .safetensors of an interrupted row.")
    ] = None,
    label_stride: Annotated[
        int | None, typer.Option(min=1, help="Segmentation: the loss on every n-th row and column.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    small: Annotated[bool, typer.Option("--small", help="A dry run: 64 views of 112x144.")] = False,
) -> None:
    """Train the row."""
    choice(row, sorted({job.row for job in jobs() if job.task == task}), "row")
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    where, chosen = find_device(device), selection or included_selection(task)
    fields: dict[str, Any] = {"samples": samples, "batch": batch, "learning_rate": lr, "backbone_rate": backbone_lr}
    fields |= {"validations": validations, "label_stride": label_stride, "start": start and str(start)}
    given = {name: value for name, value in fields.items() if value is not None}
    known = next(job for job in jobs() if (job.task, job.row) == (task, row))
    job = Job(task, row, seed, {**known.changes, **given})
    sources = Sources(data, backbone, lambda _task: chosen, out)
    with terminal_progress() as progress:
        result = train_row(job, sources, math.inf if seconds is None else seconds, where, small, progress=progress)
    found = json.loads(result.read_text(encoding="utf-8"))
    test = "" if found["test"] is None else f", test {found['test']:.4f}"
    print(f"{result}: val {found['val']:.4f}{test}, {found['samples']} views in {found['seconds']:.0f} s")


if __name__ == "__main__":
    entry(main)()
