"""The cost of rules per frame: ten rules over five zones on class maps of two sizes; the limit is 1 ms."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from aselect_runtime.frames import Frame
from aselect_runtime.rules import Rules, Sight, Watch

SIZES = {"144x192": (144, 192), "512x1024": (512, 1024)}
CLASSES = tuple(f"class {number}" for number in range(19))
ZONES = {
    f"zone {number}": [[0.1 * number, 0.2], [0.1 * number + 0.4, 0.1], [0.1 * number + 0.5, 0.9], [0.05 * number, 0.8]]
    for number in range(5)
}


def measure(frames: int) -> dict[str, float | str]:
    """Milliseconds of CPU per frame, p50 and p99: other processes do not count."""
    figures: dict[str, float | str] = {}
    for name, size in SIZES.items():
        times = _times(size, frames)
        figures[f"10 rules, 5 zones, class map {name}, CPU p50 [ms/frame]"] = median(times)
        figures[f"10 rules, 5 zones, class map {name}, CPU p99 [ms/frame]"] = float(np.percentile(times, 99))
    return figures


def _times(size: tuple[int, int], frames: int) -> list[float]:
    random = np.random.default_rng(0)
    maps: list[Frame] = [random.integers(0, len(CLASSES), size, dtype=np.uint8) for _ in range(8)]
    watch = Watch(_rules(), CLASSES)
    times = []
    for number in range(frames):
        sight = Sight(0, "camera", True, number / 30, number / 30, maps[0], maps[number % len(maps)])
        start = time.thread_time()
        watch.observe(sight)
        times.append((time.thread_time() - start) * 1000)
    return times[1:]  # the first rasterises the zones


def _rules() -> Rules:
    rules = [
        {"name": f"rule {n}", "class": CLASSES[n], "zone": f"zone {n % 5}", "above": 0.05, "for": 0.1, "cooldown": 1.0}
        for n in range(10)
    ]
    return Rules.model_validate(
        {"zones": [{"name": name, "points": points} for name, points in ZONES.items()], "rules": rules}
    )
