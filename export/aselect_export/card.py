"""The model card of an export: one page that describes the folder's contents and how they were checked."""

from __future__ import annotations

from pathlib import Path

from aselect_edge.evaluation.page import Section, write_page
from aselect_runtime.records import Manifest, Replacement, Report

CARD = "card.html"


def write_card(folder: Path, manifest: Manifest, report: Report) -> None:
    """Write `card.html` for a manifest and a report that are complete except for it; raises WriteError."""
    task = {"seg": "segmentation", "cls": "classification"}[manifest.task]
    kept = f", {manifest.weights} weights" if manifest.weights else ""
    write_page(folder / CARD, f"{task.capitalize()} model, {manifest.precision}{kept}", _sections(manifest, report))


def _sections(manifest: Manifest, report: Report) -> list[Section]:
    noise, size = manifest.noise, report.size
    facts = {
        "input": f"{manifest.input.name} {manifest.input.dtype} {list(manifest.input.shape)}, BGR",
        "outputs": ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in manifest.outputs),
        "classes": ", ".join(info.name for info in manifest.classes),
        "taps": ", ".join(map(str, manifest.taps)),
        "noise": f"alpha {noise.alpha:.4f}, sigma {noise.sigma:.4f}, model timestep {noise.model_timestep:g}",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }
    sections = [Section("Overview", facts=facts)]
    whole, deployed = size.get("backbone_float32_bytes"), size.get("deployed_float32_bytes")
    if whole and deployed:
        text = (
            "At this one noise level the conditioning is constant and folded into the weights, and blocks after the "
            f"tap are removed: {deployed / 1e6:.1f} MB, head included, remain of the backbone's {whole / 1e6:.1f} MB "
            "(float32)."
        )
        sections.append(Section("Folding", text))
    if other := report.replacement:
        sections.append(_replaced(other))
    files = [(name, f"{count / 1e6:.2f} MB") for name, count in size.items() if not name.endswith("_bytes")]
    sections.append(Section("Files", rows=[("file", "size"), *files]))
    parity = [
        (
            each.graph,
            each.reference,
            str(each.frames),
            f"{each.agreement:.3%}",
            f"{each.max_error:.1e}",
            _word(each.passed),
        )
        for each in report.parity
    ]
    head = ("graph", "compared with", "frames", "same class", "max error", "gate")
    sections.append(Section("Parity", "Each graph's answers compared with its reference's.", rows=[head, *parity]))
    if report.latency:
        rows = [(name.removesuffix(" [ms]"), f"{taken:.2f} ms") for name, taken in report.latency.items()]
        sections.append(Section("Latency on the exporting machine", rows=[("graph", "time"), *rows]))
    if report.kept_fp32:
        rows = [(graph, str(len(nodes))) for graph, nodes in report.kept_fp32.items()]
        sections.append(
            Section("Nodes kept in FP32", "report.json lists each with the reason.", rows=[("graph", "nodes"), *rows])
        )
    if quantised := report.quantisation:
        layers = sum(layer.int8 for layer in quantised.layers)
        form = quantised.form
        drop = {
            f"layers in {form.upper()}": f"{layers} of {len(quantised.layers)}; the others: {quantised.rest.upper()}",
            f"{quantised.metric} in fp32": f"{quantised.fp32:.4f} on {quantised.images} images",
            f"{quantised.metric} in {form}": f"{quantised.int8:.4f}; allowed drop {quantised.max_drop:g}",
        }
        sections.append(Section(form.upper(), facts=drop))
    if report.notes:
        sections.append(Section("Notes", rows=[("note",), *((note,) for note in report.notes)]))
    return sections


def _replaced(other: Replacement) -> Section:
    facts = {
        "encoder": f"{other.by}, in place of {other.replaced}",
        f"{other.metric} with the full encoder": f"{other.full:.4f} on {other.images} images",
        f"{other.metric} as deployed": f"{other.deployed:.4f}; allowed drop {other.max_drop:g}",
        "parameters": f"{other.cost.parameters:,} instead of {other.full_cost.parameters:,}",
        "multiply-accumulates of a frame": f"{other.cost.macs:,} instead of {other.full_cost.macs:,}",
    }
    return Section("What was replaced", facts=facts)


def _word(passed: bool) -> str:
    return "passed" if passed else "failed"
