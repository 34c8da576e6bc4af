"""The savings and the error of --skip-still: frames that are not inferred, CPU time, and the share of equal pixels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.frames import Frame
from aselect_runtime.pipeline.still import StillFrames
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.scenes import Street
from aselect_runtime.sources.source import Source

THRESHOLDS = (0.005, 0.01, 0.02, 0.05)
STATIC = 250
"""Number of frames of the static scene."""
NOISE = 2.0
"""Standard deviation of its sensor noise, in grey levels."""
DRAWS = 25
"""Different frames of noise, shown in turn: drawing them must not count as CPU time of the run."""
CALLS = 2000


class Static:
    """One drawn street at 25 frames a second, with sensor noise; frames are ready, nothing is decoded."""

    info = SourceInfo("static street", fps=25)

    def __init__(self) -> None:
        scene = Street(0, 540, 960).frame(0)[0].astype(np.float32)
        random = np.random.default_rng(0)
        noisy = (np.clip(scene + random.normal(0, NOISE, scene.shape), 0, 255) for _ in range(DRAWS))
        self._frames = [np.rint(frame).astype(np.uint8) for frame in noisy]

    def __enter__(self) -> Static:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Captured]:
        for index in range(STATIC):
            yield Captured(self._frames[index % DRAWS], index, f"static-{index:06d}", self.info)


def measure(model: Path) -> dict[str, float | str]:
    """For each threshold shares in percent and CPU time by that without --skip-still; the cost of a comparison."""
    data = os.environ.get("ASELECT_DATA")
    people = Path(data) / "video" / "people_432p.mp4" if data else None
    scenes: dict[str, str | Source] = {"static street": Static()}
    if people is not None and people.is_file():
        scenes["people clip"] = str(people)
    figures: dict[str, float | str] = {}
    for name, source in scenes.items():
        every, _, whole = answers(model, source, None)
        for threshold in THRESHOLDS:
            found, repeated, spent = answers(model, source, threshold)
            same = [float((a == b).mean()) for a, b in zip(every, found, strict=True)]
            row = f"{name}, --skip-still {threshold}"
            figures[f"{row}, frames not inferred [%]"] = 100 * repeated / len(found)
            figures[f"{row}, CPU time / that of inferring every frame"] = spent / whole
            figures[f"{row}, pixels with the same class [%]"] = 100 * float(np.mean(same))
            figures[f"{row}, in the worst frame [%]"] = 100 * min(same)
    if "people clip" not in scenes:
        figures["people clip"] = "not run: ASELECT_DATA has no video/people_432p.mp4"
    return figures | {"comparison [us per 1,000 model pixels]": comparison(model)}


def answers(model: Path, source: str | Source, threshold: float | None) -> tuple[list[Frame], int, float]:
    """The class map of every frame, how many of them were repeated, and the CPU seconds of the run."""
    maps: list[Frame] = []

    def keep(result: Result) -> None:
        maps.append(result.outputs["class_map"])

    manifest, session = open_model(model, "auto")
    before = time.process_time()
    summary = run_pipeline(manifest, session, [source], on_frame=keep, skip_still=threshold)
    spent = time.process_time() - before
    session.close()
    return maps, summary.repeated, spent


def comparison(model: Path) -> float:
    """Microseconds to compare a still frame, per 1,000 model pixels."""
    manifest, session = open_model(model, "auto")
    session.close()
    _, height, width, _ = manifest.input.shape
    pixels = Street(0, height, width).frame(0)[0]
    captured = Captured(pixels, 0, "still", Static.info)
    still = StillFrames(0.01)
    start = time.perf_counter()
    for _ in range(CALLS):
        still.still(0, captured, pixels)
    return 1e6 * (time.perf_counter() - start) / CALLS / (height * width / 1000)
