"""The ladder of precisions: from the asked one towards FP32, each rung measured, none shipped that missed its gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from aselect_edge.bundle import LoadedBundle
from aselect_edge.errors import GateError
from aselect_edge.records import Precision
from aselect_export.precision import convert, fp16_nodes, measure_ranges, mixed_nodes
from aselect_export.verify import Answer, Frames, Rung, Verdict, answer_of_torch, batches, judge

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A rung's debug graph and what was measured of it."""

    debug: ModelProto
    verdict: Verdict


@dataclass(frozen=True)
class Trial:
    """What every rung of one export is measured with."""

    bundle: LoadedBundle
    imgsz: tuple[int, int]
    batch: int
    frames: Frames
    reference: Answer

    def judge(self, debug: ModelProto, rung: Rung) -> Verdict:
        """Measure one debug graph; the model itself is loaded again, because casting changes it."""
        task = self.bundle.record.task
        half = None
        if rung != "fp32":
            half = answer_of_torch(self.bundle.deployed(self.imgsz), task, self.frames, self.batch, rung)
        return judge(debug, rung, task, self.frames, self.batch, self.reference, half)


def climb(debug: ModelProto, asked: Precision, ladder: bool, trial: Trial, progress: Progress) -> list[Candidate]:
    """Measure the rungs of a precision and return them all, the asked one first, FP32 last.

    fp16 has the rungs fp16, mixed and fp32; without `ladder`, fp16 alone. Raises GateError if the FP32 graph misses its
    gate (then the export itself is wrong), or if no rung that is still the asked precision passes.
    """
    progress("checking the fp32 graph")
    fp32 = Candidate(debug, trial.judge(debug, "fp32"))
    if not fp32.verdict.passed:
        raise GateError(
            f"{fp32.verdict}, expected 99.9% same class and an error of at most 1e-04; "
            "the graph does not compute what the model does, please report it with the bundle"
        )
    if asked == "fp32":
        return [fp32]
    ranges = measure_ranges(debug, batches(trial.frames, trial.batch))
    half: list[Candidate] = []
    plans = {"fp16": fp16_nodes, "mixed": mixed_nodes} if ladder else {"fp16": fp16_nodes}
    for rung, plan in plans.items():
        progress(f"converting and checking the {rung} graph")
        graph = convert(debug, plan(debug, ranges))
        half.append(Candidate(graph, trial.judge(graph, rung)))  # type: ignore[arg-type]
    if not any(candidate.verdict.passed for candidate in half):
        found = " | ".join(str(candidate.verdict) for candidate in half)
        raise GateError(f"{found}, expected 99.5% same class; the fp32 graph passed, use --precision fp32")
    return [*half, fp32] if ladder else half
