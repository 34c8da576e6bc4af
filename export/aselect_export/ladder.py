"""The ladder of precisions: the asked one and its fallbacks, each rung measured, none shipped that missed its gate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto
from torch import nn

from aselect_edge.errors import GateError
from aselect_edge.records import Precision, Task
from aselect_export.precision import LIMIT, convert, fp16_nodes, measure_ranges, mixed_nodes
from aselect_export.verify import HALF_AGREEMENT, Answer, Frames, Rung, Verdict, answer_of_torch, batches, judge

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A rung's debug graph and what was measured of it."""

    debug: ModelProto
    verdict: Verdict


@dataclass(frozen=True)
class Trial:
    """What every rung of one export is measured with."""

    deployed: nn.Module
    task: Task
    batch: int
    frames: Frames
    reference: Answer

    def measure(self, debug: ModelProto, rung: Rung) -> Candidate:
        """Measure one debug graph."""
        half = None
        if rung != "fp32":
            model = copy.deepcopy(self.deployed)  # casting changes it
            half = answer_of_torch(model, self.task, self.frames, self.batch, rung)
        return Candidate(debug, judge(debug, rung, self.task, self.frames, self.batch, self.reference, half))


def climb(
    debug: ModelProto, asked: Precision, trial: Trial, progress: Progress, *, ladder: bool, allow_mixed: bool
) -> list[Candidate]:
    """Measure the rungs of a precision and return them all: the asked one first, then mixed, FP32 last.

    Without `ladder` there are no fallbacks, except that with `allow_mixed` the mixed rung may take the place of an
    fp16 one that failed. Raises GateError if the asked rung misses its gate and nothing allowed takes its place.
    """
    progress("checking the fp32 graph")
    fp32 = trial.measure(debug, "fp32")
    if not fp32.verdict.passed:
        raise GateError(
            f"{fp32.verdict}, expected 99.9% same class and an error of at most 1e-04; "
            "the graph does not compute what the model does, please report it with the bundle"
        )
    if asked == "fp32":
        return [fp32]
    ranges = measure_ranges(debug, batches(trial.frames, trial.batch))
    progress("converting and checking the fp16 graph")
    fp16 = trial.measure(convert(debug, fp16_nodes(debug, ranges)), "fp16")
    if fp16.verdict.passed and not ladder:
        return [fp16]
    progress("converting and checking the mixed graph")
    mixed = trial.measure(convert(debug, mixed_nodes(debug, ranges)), "mixed")
    if not (fp16.verdict.passed or (allow_mixed and mixed.verdict.passed)):
        raise GateError(_missed([fp16, mixed, fp32]))
    return [fp16, mixed, fp32] if ladder else [fp16, mixed]


def _missed(tried: list[Candidate]) -> str:
    """What to say when fp16 failed: every rung that was measured, and the ways to go on."""
    found = " | ".join(f"{one.verdict} ({'passed' if one.verdict.passed else 'failed'})" for one in tried)
    ways = "use --precision fp32"
    if any(one.verdict.rung == "mixed" and one.verdict.passed for one in tried):
        ways += ", or --allow-mixed to take the mixed graph as model.onnx"
    return f"{found}; expected of fp16 {HALF_AGREEMENT:.1%} same class and values below {LIMIT:.0f}; {ways}"
