"""One graph of a folder after the other, built into a candidate file and verified there before it is used."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np

from aselect_runtime.engines.builder import BuildOptions, build_engine, engine_name
from aselect_runtime.engines.cache import load_plan
from aselect_runtime.engines.gpu import Gpu
from aselect_runtime.engines.parity import Answers, check_parity
from aselect_runtime.engines.precision import check_precision, tensor_types
from aselect_runtime.engines.tensorrt_session import TensorRtSession
from aselect_runtime.engines.verified import is_verified
from aselect_runtime.engines.versions import Builder
from aselect_runtime.files import inside
from aselect_runtime.frames import Frame
from aselect_runtime.progress import Progress
from aselect_runtime.records import Engine, Manifest, Parity
from aselect_runtime.sessions.latency import median_ms

log = logging.getLogger(__name__)

CANDIDATE = "engines/.candidate.engine"


@dataclass
class Attempt:
    """Builds and verifies engines of a folder's graphs on this GPU, each in place of the one before."""

    folder: Path
    manifest: Manifest
    builder: Builder
    gpu: Gpu
    options: BuildOptions
    prebuilt: Engine | None
    """The engine that the folder has for this GPU; one that was built on another machine is verified, not built."""
    verification: tuple[Frame, Answers] | None
    compared: bool
    """Whether each engine is timed, because an INT8 or FP8 one must be faster than that of the next graph."""
    progress: Progress
    stop: Event | None
    latency: dict[str, float] = field(default_factory=dict)
    """Milliseconds of a batch, by graph."""

    @property
    def candidate(self) -> Path:
        """The file that engines are built into."""
        return self.folder / CANDIDATE

    @property
    def final(self) -> str:
        """The name of the engine that is used, in the folder."""
        return engine_name(self.builder, self.gpu.target)

    def build(self, rung: str) -> Engine:
        """Write the engine of a graph to `candidate`; raises what `build_engine` raises."""
        own = self.prebuilt
        if own is not None and own.model == rung and self.verification is not None and not is_verified(own):
            self.candidate.write_bytes(load_plan(self.folder, own))
            return own
        return build_engine(
            inside(self.folder, rung),
            self.candidate,
            self.gpu.target,
            self.builder,
            self.progress,
            options=self.options,
            stop=self.stop,
            timing=(self.folder / self.final).with_suffix(".timing"),
        )

    def verify(self, rung: str, _: Engine) -> Parity | None:
        """Compare `candidate` with ONNX Runtime on the folder's frames, and time it; None without such frames.

        Raises EngineError if it cannot be loaded or run.
        """
        if self.verification is None:
            log.warning("%s has no verify.npz, so the engine is not verified; export it again", self.folder)
            if not self.compared:
                return None
        log.info("verifying the engine on the folder's frames")
        self.progress("verifying the engine", 0.0)
        name = f"{self.folder / self.final}"
        with closing(TensorRtSession(self.candidate.read_bytes(), self.builder, name)) as session:
            session.check(self.manifest)
            check_precision(tensor_types(session.information()), rung, self.manifest, name)
            if self.compared:
                self.latency[rung] = median_ms(session, self._batch())
            if self.verification is None:
                return None
            graph = inside(self.folder, rung)
            return check_parity(session, f"{self.final} ({rung})", graph, self.manifest, *self.verification)

    def _batch(self) -> Frame:
        """A batch to measure on: the folder's verification frames, or zeros if it has none."""
        if self.verification is None:
            return np.zeros(self.manifest.input.shape, np.uint8)
        return self.verification[0][: self.manifest.input.shape[0]]
