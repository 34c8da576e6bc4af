"""The GPU run: a backbone trained with a teacher, its selections, both bundles and the comparison, in limited time.

    python -m research.gpu_run --pack build/gpu-pack.zip --out FOLDER --seconds 540 [--stages pretrain,select,rows]

Every stage has its share of the time, ends on time with a usable result, and is skipped if its result exists already,
so that an interrupted run resumes. FOLDER has `run.log` and the files of `research.gpu_results`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.selection import Request, select_tap
from aselect_edge.training.efficientnet import load_efficientnet
from aselect_runtime.errors import AselectError, InputError
from aselect_runtime.options import parse_list
from aselect_runtime.records import Selection, Task
from research.corpus import load_corpus
from research.gpu_results import collect
from research.gpu_workers import chosen_jobs, train_rows
from research.pretrain_recipe import CONFIG, PretrainRecipe
from research.pretraining import pretrain
from research.row_jobs import SETS, SETTINGS, Sources
from research.unpack import COMPLETE, unpack

log = logging.getLogger("gpu")
LEAST_SECONDS = 60
COLLECTING = 25
"""Seconds reserved for ending the rows and writing the results."""


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, default=Path("build/gpu-run"), help="data, checkpoints, state between runs"
    )
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--pretrain-share", type=float, default=0.42, help="share of the seconds")
    parser.add_argument("--stages", default="pretrain,select,rows")
    parser.add_argument(
        "--included", action="store_true", help="train rows on the included backbone; neither pretrain nor select"
    )
    parser.add_argument(
        "--jobs", default="", help="rows to train and their order, such as seg-teacher-0,seg-ship-long-0"
    )
    parser.add_argument("--workers", type=int, default=5, help="parallel trainings")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a dry run: tiny batches and few images")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        logging.FileHandler(arguments.out / "run.log"),
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(relativeCreated)7.0f ms %(message)s"))
        root.addHandler(handler)
    try:
        run(arguments)
    except AselectError as error:
        log.error("error: %s", error)
        return error.exit_code
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Run all stages; raises InputError for invalid arguments before anything is written."""
    began = time.monotonic()
    if arguments.seconds < LEAST_SECONDS:
        raise InputError(f"got --seconds {arguments.seconds:g}, expected at least {LEAST_SECONDS}; raise it")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("got no GPU that torch finds, expected one; run on a GPU machine, or try --device cpu --small")
    device, work = torch.device(arguments.device), arguments.work
    stages, names = arguments.stages.split(","), list(parse_list(arguments.jobs))
    if arguments.included:
        stages = [stage for stage in stages if stage == "rows"]
    chosen_jobs(names)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = work / "data"
    if not (data / COMPLETE).is_file():
        unpack(arguments.pack, data, os.cpu_count() or 1)
    log.info("unpacked: %.1f s; torch %s on %s", time.monotonic() - began, torch.__version__, _name(device))
    backbone = work / "backbone"
    if "pretrain" in stages:
        budget = max(5.0, arguments.seconds * arguments.pretrain_share - (time.monotonic() - began))
        _pretrain(data, backbone, budget, device, arguments.small)
        log.info("pretrained: %.1f s", time.monotonic() - began)
    if "select" in stages:
        for task in ("seg", "cls"):
            _select(task, data, backbone, work, device, arguments.small)
        log.info("selected: %.1f s", time.monotonic() - began)
    if device.type == "cuda":
        log.info("peak GPU memory: %.1f GB", torch.cuda.max_memory_allocated() / 1e9)
        torch.cuda.empty_cache()  # the rows are trained by other processes
    if "rows" in stages:
        left = began + arguments.seconds - COLLECTING - time.monotonic()
        sources = Sources.of_run(work, arguments.included)
        train_rows(sources, left, arguments.device, arguments.workers, arguments.small, names)
        log.info("rows: %.1f s", time.monotonic() - began)
    collect(work, arguments.out)
    log.info("done: %.1f s", time.monotonic() - began)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _pretrain(data: Path, out: Path, seconds: float, device: torch.device, small: bool) -> None:
    corpus = load_corpus(data, device, 16 if small else 1200, workers=os.cpu_count() or 1)
    log.info("corpus: %d images", corpus.count)
    teacher = load_efficientnet(data / "teacher.safetensors").to(device)
    if device.type == "cuda":
        teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = PretrainRecipe(seconds=seconds, compiled=device.type == "cuda" and not small)
    if small:
        recipe = replace(recipe, batch=8, frame_batch=2, crop=(64, 64), frame=(64, 96), save_every=5)
    pretrain(corpus, out, recipe, teacher, device, CONFIG)


STRATEGIES: dict[str, dict[str, Any]] = {
    "probe": {"images": 512, "timesteps": (0, 20, 50, 100, 150, 200, 300, 400)},
    "hfr": {"images": 64},
    "hfr-signal": {"images": 64},
    "smallest-sigma": {"images": 8},
}


def _select(task: Task, data: Path, backbone: Path, work: Path, device: torch.device, small: bool) -> None:
    loaded = load_backbone(str(backbone))
    plan = SETTINGS[task]
    for strategy, options in STRATEGIES.items():
        path = work / f"{task}-{strategy}.selection.json"
        if path.is_file():
            continue
        options = {**options, **({"images": 48, "timesteps": (0, 100, 300)} if small else {})}
        imgsz = (112, 144) if small else plan.imgsz
        request = Request(strategy, task, imgsz=imgsz, batch=32, device=device, blocks=plan.blocks, **options)
        select_tap(loaded, data / SETS[task], request).save(path)
        chosen = Selection.load(path)
        log.info("%s %s: %s at timestep %s", task, strategy, chosen.tap, chosen.noise.model_timestep)


if __name__ == "__main__":
    sys.exit(main())
