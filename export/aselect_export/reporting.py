"""The content of `report.json`: all measurements of an export, and notes for people."""

from __future__ import annotations

from pathlib import Path

from aselect_export.ladder import Candidate
from aselect_export.package import MODEL, rung_file
from aselect_export.quantising import Quantised
from aselect_export.replacement import told
from aselect_runtime.records import Bundle, Replacement, Report


def notes_of(
    tried: list[Candidate], quantised: Quantised | None, record: Bundle, replacement: Replacement | None
) -> list[str]:
    """Notes about the encoder, the ladder of precisions and the quantised graph."""
    return [*_encoder_notes(record, replacement), *_departures(tried), *(quantised.notes if quantised else ())]


def report_of(
    folder: Path,
    tried: list[Candidate],
    weights: dict[str, int],
    notes: list[str],
    quantised: Quantised | None,
    replacement: Replacement | None,
) -> Report:
    """The measurements of all graphs of a folder, with notes."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    passed = [candidate for candidate in tried if candidate.verdict.passed]
    names = [MODEL, *(rung_file(candidate.verdict.rung) for candidate in passed[1:])]
    batch = passed[0].verdict.batch
    return Report(
        parity=tuple(parity for candidate in tried for parity in candidate.verdict.parity),
        size=dict(sorted(sizes.items())) | weights,
        latency={
            f"{name}, onnxruntime cpu, batch {batch}, p50 [ms]": candidate.verdict.latency
            for name, candidate in zip(names, passed, strict=True)
        },
        kept_fp32={name: dict(candidate.kept) for name, candidate in zip(names, passed, strict=True) if candidate.kept},
        notes=tuple(notes),
        quantisation=quantised.quantisation if quantised else None,
        replacement=replacement,
    )


def _encoder_notes(record: Bundle, replacement: Replacement | None) -> list[str]:
    """What was deployed in place of the full encoder, or could have been."""
    if replacement is not None:
        return [told(replacement)]
    unused = "the bundle has a distilled encoder, which is not deployed; use the encoder distilled for it"
    return [unused] if record.distilled is not None else []


def _departures(tried: list[Candidate]) -> list[str]:
    """Missing rungs of the ladder, and whether model.onnx is another rung than the requested one."""
    notes = [f"{candidate.verdict} (failed, left out)" for candidate in tried if not candidate.verdict.passed]
    if not tried[0].verdict.passed:
        notes.append("model.onnx is the mixed graph, because fp16 failed its parity check and mixed was allowed")
    return notes
