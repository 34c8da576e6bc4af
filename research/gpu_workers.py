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
from typing import Any

import torch

from aselect_runtime.options import choice
from aselect_runtime.records import Task
from research.row_data import Labelled
from research.row_jobs import GUIDED, ROWS, Job, Sources, jobs
from research.row_training import LEAST, seconds_used, train_row

log = logging.getLogger("gpu")
ENDING = 8
"""Seconds reserved for the figures and the files of a row."""
SHORTEST, ENOUGH = 5.0, 25.0
"""Seconds that the first training of a worker needs at least, and that are enough for any candidate."""


def train_rows(sources: Sources, seconds: float, device: str, workers: int, small: bool, names: list[str]) -> None:
    """Train the jobs that have no result yet, `workers` in parallel, until the time is over.

    `names` are the jobs in their order, all of them if empty; raises InputError for an unknown one.
    """
    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), sources.out
    chosen = chosen_jobs(names)
    results.mkdir(exist_ok=True)
    waiting = [job for job in chosen if not (results / f"{job.name}.json").is_file()]
    if small and not names:
        waiting = [job for job in waiting if job.seed == 0 and job.row in (*ROWS, "ship-attention", "ship-edge")]
    for job in waiting:
        todo.put(job)
    wall = time.time() + seconds
    running = [
        context.Process(target=_work, args=(todo, sources, wall, device, small))
        for _ in range(min(workers, len(waiting)))
    ]
    for worker in running:
        worker.start()
    for worker in running:
        worker.join(max(0.1, wall - time.time()))
        if worker.is_alive():
            log.warning("a training had not finished at the deadline and was stopped")
            worker.kill()
            worker.join()


def chosen_jobs(names: list[str]) -> list[Job]:
    """The named jobs in that order, or all; raises InputError for an unknown name."""
    known = {job.name: job for job in jobs()}
    for name in names:
        choice(name, list(known), "job")
    return [known[name] for name in names] or list(known.values())


def _work(todo: Any, sources: Sources, wall: float, device_name: str, small: bool) -> None:
    """Train jobs until there are none, or until the next one would not finish in time.

    A candidate that is cut short is still a candidate, a row of the comparison is not: it starts only if there is time
    for as long a training as those before it.
    """
    logging.basicConfig(level=logging.INFO, format=f"{os.getpid()} %(message)s")
    device = torch.device(device_name)
    torch.set_num_threads(2)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    opened: dict[tuple[Task, tuple[int, int]], Labelled] = {}
    longest = SHORTEST
    while time.time() + min(longest, ENOUGH) < wall:
        try:
            job = todo.get(timeout=0.5)
        except queue.Empty:
            return
        began = time.time()
        if not job.row.startswith(GUIDED) and began + longest > wall:
            continue
        try:
            seconds = seconds_used(job, sources) + max(LEAST, wall - time.time() - ENDING)
            train_row(job, sources, seconds, device, small, opened)
        except Exception:  # a failed row must not stop the others
            log.error("%s failed:\n%s", job.name, traceback.format_exc())
            (sources.out / f"{job.name}.error").write_text(traceback.format_exc())
            continue
        longest = max(longest, time.time() - began)
