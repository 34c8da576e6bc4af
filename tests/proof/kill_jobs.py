"""The commands that are killed, on a tiny model: two versions of each, and how what they write is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from aselect_edge.bundle import load_bundle
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import IntegrityError
from aselect_runtime.files import check_files
from aselect_runtime.folder import MANIFEST, listed_files, load_folder
from aselect_runtime.records import Selection
from aselect_runtime.temporaries import is_temporary
from tests.bundles import write_bundle
from tests.proof.kills import Job
from tests.proof.steps import SIZE, exported
from tests.runtime import videos
from tests.streets import write_streets

RATE = 15
"""Frames per second of the synthetic street."""


def every_job(place: Path) -> list[Job]:
    """All commands, with what they read in `place`; without TensorRT-RTX, all but aselect-build."""
    bundle, data = write_bundle(place / "given" / "bundle"), write_streets(place / "given" / "data")
    model = exported(place / "given" / "model", "fp32", "--no-ladder")
    jobs = [running(model), exporting(bundle), training(bundle, data), selecting(bundle, data)]
    return [*jobs, building(model)] if available("rtx") else jobs


def running(model: Path) -> Job:
    """aselect-run on two streets: lines and video are written in place, masks and the last image whole."""

    def arguments(work: Path, version: int) -> list[str]:
        street = f"synthetic://street?size=96x128&seed={version}&frames={60 + 30 * version}"
        outputs = [word for name in ("a.jsonl", "a.mp4", "last.png", "masks/") for word in ("-o", f"{work}/{name}")]
        return [str(model), street, "--device", "cpu", *outputs]

    return Job("run", "aselect_runtime.commands.run:run", arguments, ("last.png", "masks"), read_run)


def read_run(work: Path) -> None:
    """Lines are complete and count up; the video has all their frames but those of the last second."""
    text = (work / "a.jsonl").read_text() if (work / "a.jsonl").is_file() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    frames = [line["frame"] for line in lines]
    if frames != list(range(len(frames))):
        raise IntegrityError(f"{work}/a.jsonl: got the frames {frames}, expected them in order; look at the sink")
    newer = (
        bool(lines) and "seed=1" in lines[0]["source"]
    )  # the older lines may stand beside the newer video's beginning
    if newer and len(frames) > RATE and len(videos.read(work / "a.mp4")) < len(frames) - RATE:
        raise IntegrityError(f"{work}/a.mp4: got more than a second less than {len(frames)} frames; look at the sink")
    _read_images(work)


def exporting(bundle: Path) -> Job:
    """aselect-export, fp32 over which fp16 is written."""

    def arguments(work: Path, version: int) -> list[str]:
        precision = ("fp32", "fp16")[version]
        return ["--model", str(bundle), "--precision", precision, "--engine", "none", "--out", f"{work}/exported"]

    return Job("export", "aselect_export.commands.export:export", arguments, ("exported",), read_export)


def read_export(work: Path) -> None:
    """Every file that the manifest lists is there with its hash."""
    manifest, _ = load_folder(work / "exported")
    engines = {engine.file: engine.sha256 for engine in manifest.engines}
    check_files(work / "exported", {**manifest.files, **engines})


def training(bundle: Path, data: Path) -> Job:
    """aselect-train of two heads; a killed run is resumed from its checkpoint and gives the same bytes."""

    def arguments(work: Path, version: int) -> list[str]:
        given = ["--backbone", str(bundle), "--selection", str(bundle / "selection.json"), "--data", str(data)]
        recipe = ["--head", "conv", "--imgsz", SIZE, "--samples", str(160 + 80 * version), "--batch", "4"]
        return [*given, *recipe, "--out", f"{work}/bundle"]

    name = "aselect_edge.commands.train:train"
    return Job("train", name, arguments, ("bundle",), read_bundle, forget=("bundle.training",))


def read_bundle(work: Path) -> None:
    """The bundle loads, with its weights."""
    load_bundle(work / "bundle").reference()


def selecting(bundle: Path, data: Path) -> Job:
    """aselect-select with two seeds."""

    def arguments(work: Path, version: int) -> list[str]:
        scan = ["--strategy", "hfr", "--timesteps", "0,50,100,200,400", "--batch", "2", "--imgsz", SIZE]
        return [str(bundle), "--data", str(data), *scan, "--seed", str(version), "--out", f"{work}/s.json"]

    outputs = ("s.json", "s.png", "s.features.png")
    return Job("select", "aselect_edge.commands.select:select", arguments, outputs, read_selection)


def read_selection(work: Path) -> None:
    """The record loads, and the plots are whole."""
    Selection.load(work / "s.json")
    _read_images(work)


def building(model: Path) -> Job:
    """aselect-build ahead of time for one GPU, then for another one.

    It adds an engine's file to the folder, and then a manifest that lists it.
    """

    def prepare(work: Path) -> None:
        shutil.copytree(model, work / "exported")

    def arguments(work: Path, version: int) -> list[str]:
        return [f"{work}/exported", "--target", ("sm86", "sm89")[version]]

    def listed(work: Path) -> list[str]:
        folder = work / "exported"
        return [f"exported/{name}" for name in (MANIFEST, *listed_files(folder / MANIFEST))]

    return Job("build", "aselect_runtime.commands.build:build", arguments, ("exported",), read_export, prepare, listed)


def _read_images(work: Path) -> None:
    for path in work.rglob("*.png"):
        if any(map(is_temporary, path.parts)):  # what a killed process left; the next run removes it
            continue
        content = np.fromfile(path, np.uint8)
        if not content.size or cv2.imdecode(content, cv2.IMREAD_UNCHANGED) is None:
            raise IntegrityError(f"{path}: got no image, expected a whole one; look at what writes it")
