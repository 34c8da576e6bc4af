"""Which engine of an export folder may be loaded: one built for exactly this graph, TensorRT version and GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aselect_runtime.engines.builder import BuildOptions
from aselect_runtime.engines.gpu import Gpu
from aselect_runtime.engines.versions import MODULES, Builder, version
from aselect_runtime.errors import IntegrityError
from aselect_runtime.files import atomic_write, inside, sha256
from aselect_runtime.folder import graph_hash
from aselect_runtime.records import Engine, Manifest


@dataclass(frozen=True)
class Key:
    """What a loadable engine must have been built for: graph, TensorRT, GPU and flags (None: any)."""

    onnx_sha256: str
    builder: str
    version: str
    gpu: Gpu
    flags: Mapping[str, str] | None = None

    def mismatch(self, engine: Engine) -> str | None:
        """Why this engine does not fit, as text; None if it fits."""
        if (engine.builder, engine.version) != (self.builder, self.version):
            return f"it is for {engine.builder} {engine.version}, this machine has {self.builder} {self.version}"
        if engine.target != self.gpu.target or engine.gpu not in (None, self.gpu.name):
            built_for = f"{engine.gpu or 'any GPU'} ({engine.target})"
            return f"it is for {built_for}, this machine has {self.gpu.name} ({self.gpu.target})"
        if engine.onnx_sha256 != self.onnx_sha256:
            return f"it was built from another {engine.model}"
        if self.flags is not None and dict(engine.flags) != dict(self.flags):
            return f"it was built with {_flags_text(engine.flags)}, requested is {_flags_text(self.flags)}"
        return None


def keys(manifest: Manifest, builder: Builder, gpu: Gpu, options: BuildOptions | None) -> dict[str, Key]:
    """The key of each graph of the folder, by file name: the model, then its fallback graphs (`rungs`)."""
    name = MODULES[builder].replace("_", "-")
    return {
        graph: Key(
            graph_hash(manifest.files.get, graph), name, version(builder), gpu, options.flags() if options else None
        )
        for graph in (manifest.model, *manifest.rungs)
        if graph in manifest.files
    }


def find(folder: Path, manifest: Manifest, wanted: Sequence[Key]) -> tuple[Engine | None, list[str]]:
    """The first engine that fits one of the keys and whose file is intact, and why each other one was not used."""
    passed_over: list[str] = []
    for engine in manifest.engines:
        reasons = [key.mismatch(engine) for key in wanted]
        if None in reasons:
            fault = damage(folder, engine)
            if fault is None:
                return engine, passed_over
            passed_over.append(f"{engine.file}: {fault}")
        elif reasons:
            passed_over.append(f"{engine.file}: {reasons[0]}")
    return None, passed_over


def damage(folder: Path, engine: Engine) -> str | None:
    """What is wrong with an engine's file, None if nothing; checks the hash only, the engine is not loaded."""
    path = inside(folder, engine.file)
    if not path.is_file():
        return "the file is missing"
    if sha256(path) != engine.sha256:
        return f"got another SHA-256 than {engine.sha256[:12]}…, so it is corrupt, truncated or another file"
    return None


def load_plan(folder: Path, engine: Engine) -> bytes:
    """The engine's bytes; raises IntegrityError unless their hash is the one in its record."""
    fault = damage(folder, engine)
    if fault is not None:
        raise IntegrityError(
            f"{folder / engine.file}: {fault}, expected the engine that its record describes; run aselect-build"
        )
    return inside(folder, engine.file).read_bytes()


def failed_before(folder: Path, engine_file: str, wanted: Sequence[Key]) -> bool:
    """Whether all graphs failed the parity check for exactly these keys before: building again takes minutes."""
    path = _failure(folder, engine_file)
    return path.is_file() and path.read_text(encoding="utf-8") == _digest(wanted)


def note_failure(folder: Path, engine_file: str, wanted: Sequence[Key]) -> None:
    """Store the failure for `failed_before`, next to the engine's path."""
    atomic_write(_failure(folder, engine_file), _digest(wanted))


def forget_failure(folder: Path, engine_file: str) -> None:
    """Remove the stored failure, after an engine has passed."""
    _failure(folder, engine_file).unlink(missing_ok=True)


def _failure(folder: Path, engine_file: str) -> Path:
    return (folder / engine_file).with_suffix(".failed")


def _digest(wanted: Sequence[Key]) -> str:
    return "".join(f"{key.onnx_sha256} {key.builder} {key.version} {key.gpu.name} {key.gpu.target}\n" for key in wanted)


def _flags_text(flags: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in flags.items()) or "no flags"
