"""The export folder: graphs, verification arrays, engines, manifest and report."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
from torch import nn

import aselect_edge
from aselect_calibration.weights import DATA, Graph
from aselect_edge.backbones.building import build
from aselect_edge.backbones.registry import family_class
from aselect_export.card import CARD, write_card
from aselect_export.graph import describe, specs, without_logits
from aselect_export.ladder import Candidate, Trial
from aselect_export.quantising import Quantised
from aselect_export.verify import Rung, verification_arrays
from aselect_runtime.engines.cache import load_plan
from aselect_runtime.errors import InputError
from aselect_runtime.files import sha256
from aselect_runtime.folder import graph_hash
from aselect_runtime.records import Bundle, Engine, Manifest, Precision, Report, Weights

MODEL, VERIFY, MANIFEST, REPORT = "model.onnx", "verify.npz", "manifest.json", "report.json"
RANGES, DAMAGE = "ranges.json", "damage.png"
"""Only for quantised graphs: the activation ranges (INT8 and FP8), and the plot of each layer's error."""


def full_backbone(record: Bundle) -> nn.Module:
    """The backbone before truncation and folding, without storage: for counting only."""
    # Tied: diffusers stores DiT's shared conditioning once per block, which would overstate its size.
    return build(family_class(record.backbone.family), {**record.backbone.config, "tied": True})


def draft_manifest(bundle: Bundle, graph: Graph, precision: Precision, rungs: tuple[str, ...]) -> Manifest:
    """The part of the manifest that is known before any file is written."""
    source, outputs = specs(graph)
    tools = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "onnxslim")}
    return Manifest(
        task=bundle.task,
        classes=bundle.classes,
        resize=bundle.resize,
        input=source,
        outputs=outputs,
        precision=precision,
        model=MODEL,
        rungs=rungs,
        taps=bundle.taps,
        noise=bundle.noise,
        files={},
        tools={"aselect-edge": aselect_edge.__version__, **tools},
    )


def write_graphs(
    folder: Path, bundle: Bundle, precision: Precision, weights: Weights | None, passed: list[Candidate]
) -> Manifest:
    """Write model.onnx (the first) and its fallback rungs; returns the manifest so far, without hashes."""
    names = [MODEL, *(rung_file(candidate.verdict.rung) for candidate in passed[1:])]
    graphs = [without_logits(candidate.traced) for candidate in passed]
    manifest = draft_manifest(bundle, graphs[0], precision, tuple(names[1:])).model_copy(update={"weights": weights})
    for name, graph, candidate in zip(names, graphs, passed, strict=True):
        rung = candidate.verdict.rung
        # A rung's graph may be used without the folder, so its metadata names no other rung.
        own = {"model": name, "precision": _precision(rung, precision), "rungs": ()}
        describe(graph, manifest.model_copy(update={**own, "weights": weights if rung == "int4" else None}))
        graph.write(folder / name)
    return manifest


def _precision(rung: Rung, asked: Precision) -> Precision:
    if rung == "int4":
        return asked
    return "fp16" if rung == "mixed" else rung


def rung_file(rung: Rung) -> str:
    """The file name of a fallback rung."""
    return f"model.{rung}.onnx"


def write_verification(folder: Path, trial: Trial) -> None:
    """Write verify.npz: frames and reference outputs; it loads with allow_pickle=False."""
    arrays = verification_arrays(trial.frames, trial.reference, trial.task)
    np.savez_compressed(folder / VERIFY, **arrays)


def write_quantisation(folder: Path, found: Quantised) -> None:
    """Write the ranges, if the format needs any, and the plot of the layers."""
    from aselect_calibration.plot import draw_damage  # Matplotlib, which no other precision needs

    if found.ranges is not None:
        found.ranges.save(folder / RANGES)
    draw_damage(found.quantisation, folder / DAMAGE)


def seal(folder: Path, manifest: Manifest, report: Report, engines: tuple[Engine, ...]) -> Manifest:
    """Write report, card and finally the manifest with the hash of every file; engines carry their own hashes."""
    report.save(folder / REPORT)
    write_card(folder, manifest, report)
    graphs = [name for graph in (manifest.model, *manifest.rungs) for name in (graph, f"{graph}{DATA}")]
    names = (*graphs, VERIFY, REPORT, CARD, RANGES, DAMAGE)
    files = {name: sha256(folder / name) for name in names if (folder / name).exists()}
    tools = manifest.tools | {engine.builder: engine.version for engine in engines}
    final = manifest.model_copy(update={"files": files, "engines": engines, "tools": tools})
    final.save(folder / MANIFEST)
    return final


def keep_engines(older: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Keep the engines of the older export in `older`, each minutes of work, if its graph is the same.

    Other engines of that export are removed: they compute its older graphs.
    """
    if not (older / MANIFEST).exists():
        return manifest
    kept = []
    for engine in Manifest.load(older / MANIFEST).engines:
        same = graph_hash(manifest.files.get, engine.model) == engine.onnx_sha256
        if same and not (folder / engine.file).exists():
            try:
                plan = load_plan(older, engine)
            except InputError:  # damaged: nothing to keep
                continue
            (folder / engine.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / engine.file).write_bytes(plan)
            kept.append(engine)
    final = manifest.model_copy(update={"engines": (*manifest.engines, *kept)})
    final.save(folder / MANIFEST)
    return final
