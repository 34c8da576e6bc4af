"""Choosing between several ways to run a model: a less exact one is used if it gives the same classes and is faster.

Measured once per model and machine, and stored in the user's cache folder.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aselect_runtime.errors import EngineError, IntegrityError, MissingDependencyError, RecordError, WriteError
from aselect_runtime.folder import VERIFY
from aselect_runtime.frames import Frame
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.processor import compute_threads, processor
from aselect_runtime.progress import Progress
from aselect_runtime.records import Choice, Manifest, Parity, Trial
from aselect_runtime.sessions.latency import MARGIN, median_ms
from aselect_runtime.sessions.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """One way to run a model: a graph on a device."""

    device: str
    graph: Path
    digest: str
    """Of the graph's file and its weights, hex; see `graph_hash`."""
    open: Callable[[], Session]
    gated: bool = False
    """Whether its outputs must be compared with ONNX Runtime's before it may be chosen."""


def choose(ways: Sequence[Way], folder: Path, manifest: Manifest, version: str, progress: Progress) -> Way:
    """Choose one of several ways, given the most exact first.

    The reason is logged when it was measured, and at every start if the chosen graph is not the folder's own.
    `version` is that of the software that runs them. If none works, raises what opening the first one raised.
    """
    path = _record(ways, manifest.files.get(VERIFY, ""), version)
    choice = known = _known(path, ways)
    if choice is None:
        choice = measure(ways, folder, manifest, progress)
        try:
            choice.save(path)
        except WriteError as error:
            log.warning("%s; the next start measures again", error)
    taken = ways[choice.taken]
    level = logging.DEBUG if known and taken.graph.name == manifest.model else logging.INFO
    log.log(level, "%s", describe(choice))
    return taken


def measure(ways: Sequence[Way], folder: Path, manifest: Manifest, progress: Progress) -> Choice:
    """Time every way on the folder's verification frames, and compare the `gated` ones with ONNX Runtime.

    Only one way is open at a time: a large model may not fit into memory twice. If none works, raises what opening the
    first one raised.
    """
    from aselect_runtime.engines.parity import check_parity, verification_frames

    verification = verification_frames(folder, manifest)
    batch: Frame = np.zeros(manifest.input.shape, np.uint8)
    if verification is not None:
        batch = np.ascontiguousarray(verification[0][: len(batch)])
    trials: list[Trial] = []
    errors: list[EngineError | IntegrityError | MissingDependencyError] = []
    for number, way in enumerate(ways):
        progress(f"measuring {way.device} with {way.graph.name}", number / len(ways))
        try:
            with closing(way.open()) as session:
                parity: Parity | None = None
                if way.gated and verification is not None:
                    parity = check_parity(session, way.device, way.graph, manifest, *verification)
                trials.append(_trial(way, median_ms(session, batch), parity))
        except (EngineError, IntegrityError, MissingDependencyError) as error:
            log.warning("%s; continuing without %s", error, way.device)
            errors.append(error)
            trials.append(Trial(device=way.device, model=way.graph.name, ms=1e9, passed=False))
    if len(errors) == len(ways):
        raise errors[0]
    return Choice(date=str(datetime.date.today()), trials=tuple(trials), taken=best_index(trials))


def best_index(trials: Sequence[Trial]) -> int:
    """Index of the trial to use: a later one, which is less exact, must be MARGIN times faster."""
    best = 0
    for number, trial in enumerate(trials):
        if trial.passed and (not trials[best].passed or trials[best].ms >= MARGIN * trial.ms):
            best = number
    return best


def describe(choice: Choice) -> str:
    """One line that names the chosen way and the measurements behind it."""
    taken = choice.trials[choice.taken]
    trials = ", ".join(_describe_trial(trial) for trial in choice.trials)
    return f"running {taken.model} on {taken.device}, the fastest measured here on {choice.date}: {trials}"


def _describe_trial(trial: Trial) -> str:
    what = f"{trial.model} on {trial.device}"
    same = "" if trial.agreement is None else f" ({trial.agreement:.2%} same class)"
    return f"{what} {trial.ms:.1f} ms{same}" if trial.passed else f"{what} failed{same}"


def _trial(way: Way, ms: float, parity: Parity | None) -> Trial:
    return Trial(
        device=way.device,
        model=way.graph.name,
        ms=ms,
        agreement=None if parity is None else parity.agreement,
        passed=parity is not None and parity.passed if way.gated else True,
    )


def _record(ways: Sequence[Way], verification: str, version: str) -> Path:
    """The file of the choice; its name is a hash of what decides it, `verification` being the hash of those frames."""
    here = processor()
    parts = [version, verification, here.name, *sorted(here.flags), str(compute_threads())]
    parts += [f"{way.device} {way.graph.name} {way.digest}" for way in ways]
    return cache_folder("choices") / f"{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}.json"


def _known(path: Path, ways: Sequence[Way]) -> Choice | None:
    """The stored choice; None if there is none, or it does not fit these ways."""
    if not path.is_file():
        return None
    try:
        choice = Choice.load(path)
    except RecordError as error:
        log.warning("%s; measuring again", error)
        return None
    named = [(trial.device, trial.model) for trial in choice.trials]
    fits = named == [(way.device, way.graph.name) for way in ways] and choice.taken < len(ways)
    return choice if fits and choice.trials[choice.taken].passed else None
