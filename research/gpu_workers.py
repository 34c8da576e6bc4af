"""All rows of a GPU run, several in parallel.

Each job writes `rows/NAME.json` when it is done, so that an interrupted run resumes; a job that fails leaves
`rows/NAME.error` and the other jobs continue.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from aselect_runtime.records import Task
from research.row_data import Labelled
from research.row_jobs import ROWS, Sources, jobs
from research.row_training import LEAST, train_row

log = logging.getLogger("gpu")
ENDING = 8
"""Seconds reserved for the figures and the files of a row."""


def train_rows(work: Path, seconds: float, device: str, workers: int, small: bool) -> None:
    """Train the jobs that have no result yet, `workers` in parallel, until the time is over."""
    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), work / "rows"
    results.mkdir(exist_ok=True)
    waiting = [job for job in jobs() if not (results / f"{job.name}.json").is_file()]
    if small:
        waiting = [job for job in waiting if job.seed == 0 and job.row in (*ROWS, "ship-attention", "ship-edge")]
    for job in waiting:
        todo.put(job)
    wall = time.time() + seconds
    running = [
        context.Process(target=_work, args=(todo, work, wall, device, small)) for _ in range(min(workers, len(waiting)))
    ]
    for worker in running:
        worker.start()
    for worker in running:
        worker.join(max(0.1, wall - time.time()))
        if worker.is_alive():
            log.warning("a training had not finished at the deadline and was stopped")
            worker.kill()
            worker.join()


def _work(todo: Any, work: Path, wall: float, device_name: str, small: bool) -> None:
    """Train jobs until there are none, or until the next one would not finish in time."""
    logging.basicConfig(level=logging.INFO, format=f"{os.getpid()} %(message)s")
    device = torch.device(device_name)
    torch.set_num_threads(2)
    opened: dict[tuple[Task, tuple[int, int]], Labelled] = {}
    longest = 5.0
    while time.time() + longest < wall:
        try:
            job = todo.get(timeout=0.5)
        except queue.Empty:
            return
        began = time.time()
        try:
            train_row(job, Sources.of_run(work), max(LEAST, wall - time.time() - ENDING), device, small, opened)
        except Exception:  # a failed row must not stop the others
            log.error("%s failed:\n%s", job.name, traceback.format_exc())
            (work / "rows" / f"{job.name}.error").write_text(traceback.format_exc())
            continue
        longest = max(longest, min(25.0, time.time() - began))
