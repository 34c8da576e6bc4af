"""Engines for an export folder that is here already: what `aselect-build` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aselect_edge.errors import InputError
from aselect_edge.records import Engine
from aselect_runtime.engine import Builder, Progress, build_engine, check_target, engine_name
from aselect_runtime.folder import MANIFEST, load_folder


def add_engines(
    folder: Path,
    targets: Sequence[str],
    workspace_mib: int | None = None,
    progress: Progress | None = None,
) -> tuple[Engine, ...]:
    """Build an engine of `model.onnx` per target and list it in the manifest; returns the new engines.

    Without targets TensorRT builds for the GPU at hand; with targets, TensorRT-RTX builds ahead of time. An older
    engine of the same name is replaced only once the new one is whole. Raises what `load_folder`, `check_target` and
    `build_engine` raise.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one that aselect-export wrote; check the path")
    manifest, model = load_folder(folder)
    builder: Builder = "rtx" if targets else "tensorrt"
    built = []
    for target in [check_target(target, builder) for target in targets or (None,)]:
        name = engine_name(builder, target)
        built.append(build_engine(model, folder / name, target, builder, progress, workspace_mib))
        kept = tuple(engine for engine in manifest.engines if engine.file != name)
        manifest = manifest.model_copy(update={"engines": (*kept, built[-1])})
        manifest.save(folder / MANIFEST)
    return tuple(built)
