"""The ladder of precisions: the requested one and its fallbacks, each measured; failed ones are not written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aselect_calibration.weights import Graph
from aselect_export.activations import Span, record_spans
from aselect_export.precision import LIMIT, CastPlan, convert, fp16, fp16_but_coarse, products
from aselect_export.verify import HALF_AGREEMENT, Answer, Rung, Verdict, batches, judge
from aselect_runtime.errors import GateError
from aselect_runtime.frames import Frame
from aselect_runtime.progress import Progress
from aselect_runtime.records import Precision, Task

COARSE = (1e-2, 1e-3)
"""Steps of the mixed rung: nodes with this share of rounding error return to FP32. A tensor without a common offset
loses 2e-4, whatever its scale."""


@dataclass(frozen=True)
class Candidate:
    """A rung's traced graph and its measurements."""

    traced: Graph
    verdict: Verdict
    kept: Mapping[str, str] = field(default_factory=dict)
    """Nodes that stayed FP32 on a rung of half precision -> the reason."""


@dataclass(frozen=True)
class Trial:
    """The inputs that every rung of one export is measured with."""

    task: Task
    batch: int
    frames: Frame
    reference: Answer
    halves: Mapping[Rung, Answer]
    """torch's answers in half precision, by rung."""

    def judge(self, traced: Graph, rung: Rung, plan: CastPlan | None = None) -> Candidate:
        """Measure one traced graph, converted by `plan` if given."""
        if plan is not None:
            traced = convert(traced, plan.half, f"{rung}{len(plan.half)}.weights")
        half = self.halves.get(rung)
        verdict = judge(traced, rung, self.task, self.frames, self.batch, self.reference, half)
        return Candidate(traced, verdict, plan.kept if plan else {})


def choose_rungs(
    traced: Graph, asked: Precision, trial: Trial, progress: Progress, *, ladder: bool, allow_mixed: bool
) -> list[Candidate]:
    """Measure the rungs of a precision and return them all: the requested one first, then mixed, FP32 last.

    Without `ladder` there are no fallbacks, except that with `allow_mixed` the mixed rung may replace an fp16 one that
    failed. Raises GateError if the requested rung fails its parity check and no allowed rung replaces it.
    """
    progress("checking the fp32 graph", 0.0)
    fp32 = trial.judge(traced, "fp32")
    if not fp32.verdict.passed:
        raise GateError(
            f"{fp32.verdict}, expected 99.9% same class and an error of at most 1e-04; the graph does not compute the "
            "same as the model, please report it with the bundle"
        )
    if asked == "fp32":
        return [fp32]
    progress("measuring the ranges of the tensors", 0.0)
    spans = record_spans(traced, batches(trial.frames, trial.batch))
    progress("converting and checking the fp16 graph", 0.0)
    whole = trial.judge(traced, "fp16", fp16(traced.model, spans))
    if whole.verdict.passed and not ladder:
        return [whole]
    progress("converting and checking the mixed graph", 0.0)
    mixed = _mixed(traced, trial, spans, whole)
    if not (whole.verdict.passed or (allow_mixed and mixed.verdict.passed)):
        raise _missed([whole, mixed, fp32])
    return [whole, mixed, fp32] if ladder else [whole, mixed]


def _mixed(traced: Graph, trial: Trial, spans: Mapping[str, Span], whole: Candidate) -> Candidate:
    """The mixed rung: if fp16 passed, the most accurate one; if it failed, the fastest that passes."""
    careful = products(traced.model, spans)
    if whole.verdict.passed:
        return trial.judge(traced, "mixed", careful)
    candidate = whole
    for plan in (*_steps(traced, spans, whole), careful):
        candidate = trial.judge(traced, "mixed", plan)
        if candidate.verdict.passed:
            break
    return candidate


def _steps(traced: Graph, spans: Mapping[str, Span], whole: Candidate) -> Iterator[CastPlan]:
    """Plans with increasingly many nodes in FP32, those with the largest rounding error first."""
    kept = len(whole.kept)
    for limit in COARSE:
        plan = fp16_but_coarse(traced.model, spans, limit)
        if len(plan.kept) > kept:
            kept = len(plan.kept)
            yield plan


def _missed(tried: list[Candidate]) -> GateError:
    """The error if fp16 failed: every measured rung, and the possible remedies."""
    found = " | ".join(f"{one.verdict} ({'passed' if one.verdict.passed else 'failed'})" for one in tried)
    ways, parameters = "use the precision fp32", ["precision"]
    if any(one.verdict.rung == "mixed" and one.verdict.passed for one in tried):
        ways += ", or allow mixed, which uses the mixed graph as model.onnx"
        parameters.append("allow_mixed")
    return GateError(
        f"{found}; expected of fp16 {HALF_AGREEMENT:.1%} same class and values below {LIMIT:.0f}; {ways}",
        parameter=tuple(parameters),
    )
