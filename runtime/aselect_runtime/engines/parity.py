"""Parity check of an engine: whether it gives the same classes as ONNX Runtime on the export folder's frames.

A graph that passed every check at export can still be built into an engine with wrong results: TensorRT 10.3 to 10.7
built vision transformers that output one class everywhere. Only running the engine shows this.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Generic, TypeVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile

import numpy as np
from numpy.typing import NDArray

from aselect_runtime.engines.tensorrt_session import infer_all
from aselect_runtime.errors import EngineError, GateError, IntegrityError, MissingDependencyError
from aselect_runtime.files import check_files
from aselect_runtime.folder import VERIFY
from aselect_runtime.frames import Frame
from aselect_runtime.records import Manifest, Parity
from aselect_runtime.sessions.onnx import OnnxSession
from aselect_runtime.sessions.session import Session

AGREEMENT = 0.995
"""Least share of pixels (of frames, for classification) with the same class; the same as for exported graphs."""
EIGHT_BIT_AGREEMENT = 0.98
"""The same for INT8 and FP8, whose accuracy was checked at export: they differ from FP32 by design, and runtimes round
their ties differently. An engine with wrong results is far below this."""

Answers = dict[str, NDArray[Any]]
T = TypeVar("T")

LARGEST = 1 << 30
"""Maximum bytes of the unpacked arrays."""
ODD_ZIP = (MemoryError, NotImplementedError, RuntimeError, zlib.error, SyntaxError, TokenError, OverflowError)
"""What zipfile raises for encryption and for damaged data, and NumPy for an invalid header of an array."""


@dataclass(frozen=True)
class Passing(Generic[T]):
    """The first graph that passed the parity check, its engine, and the measurements of all graphs tried."""

    rung: str
    built: T
    parity: tuple[Parity, ...]
    notes: tuple[str, ...]


def first_passing(
    rungs: Sequence[str],
    build: Callable[[str], T],
    measure: Callable[[str, T], Parity | None],
    is_fp32: Callable[[str], bool],
) -> Passing[T]:
    """Build graph after graph until one passes the parity check; `measure` returns None if it cannot be checked.

    A graph whose engine cannot be loaded or run counts as one that cannot be built. Raises GateError if every engine
    that was built fails the parity check, EngineError if none could be built.
    """
    measured: list[Parity] = []
    missed: list[str] = []
    notes: list[str] = []
    refused: EngineError | None = None
    for rung in rungs:
        try:
            built = build(rung)
            parity = measure(rung, built)
        except EngineError as error:
            refused = error
            notes.append(f"{rung}: {error}")
            continue
        if parity is None or parity.passed:
            passed = [parity] if parity else []
            return Passing(rung, built, tuple(measured + passed), tuple(notes))
        measured.append(parity)
        missed.append(rung)
        notes.append(f"{parity.graph}: {parity.agreement:.3%} same class as {parity.reference} (failed, left out)")
    if not measured and refused is not None:
        raise refused
    shares = ", ".join(f"{rung} {parity.agreement:.3%}" for rung, parity in zip(missed, measured, strict=True))
    figures = (
        f"got engines that agree with ONNX Runtime on {shares}, expected {AGREEMENT:.1%} of the same class "
        f"({EIGHT_BIT_AGREEMENT:.0%} in INT8 and FP8)"
    )
    if any(map(is_fp32, missed)):
        # TF32, which TensorRT uses for float32, loses too little for that: the builder miscompiles the graph, as 10.4
        # does a ViT.
        raise GateError(
            f"upgrade TensorRT: {figures}, and the graph in fp32 misses it too, so the precision is hardly the "
            "cause (10.3 to 10.7 are known for this); until then use the device cuda or cpu",
            parameter="device",
        )
    raise GateError(
        f"{figures}; export with the precision fp32, upgrade TensorRT (10.3 to 10.7 have this fault), or use the "
        "device cuda or cpu",
        parameter="device",
    )


def verification_frames(folder: Path, manifest: Manifest) -> tuple[NDArray[np.uint8], Answers] | None:
    """The folder's verification frames and the reference outputs for them, or None if it has none.

    Raises IntegrityError if the file is not the one that the manifest lists, or its content is invalid.
    """
    if VERIFY not in manifest.files:
        return None
    check_files(folder, {VERIFY: manifest.files[VERIFY]})
    try:
        with (folder / VERIFY).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            parts = arrays.zip.infolist()
            if odd := next((part for part in parts if part.compress_type not in (ZIP_STORED, ZIP_DEFLATED)), None):
                raise ValueError(f"{odd.filename!a} compressed by method {odd.compress_type}")
            size = sum(part.file_size for part in parts)
            if size > LARGEST:
                raise ValueError(f"{size >> 20} MiB of arrays")
            frames = arrays["frames"]
            answers = {name: arrays[name] for name in ("class_map", "scores") if name in arrays.files}
    except (ValueError, KeyError, OSError, EOFError, TypeError, BadZipFile, *ODD_ZIP) as error:
        raise IntegrityError(f"{folder / VERIFY}: got {error}, expected frames and answers; export it again") from error
    batch = manifest.input.shape[0]
    if (
        frames.dtype != np.uint8
        or frames.shape[1:] != manifest.input.shape[1:]
        or len(frames) % batch
        or not len(frames)
    ):
        raise IntegrityError(
            f"{folder / VERIFY}: got frames {frames.dtype} {list(frames.shape)}, expected whole batches of "
            f"{list(manifest.input.shape)}; export it again"
        )
    return frames, answers


def check_parity(
    session: Session, engine: str, graph: Path, manifest: Manifest, frames: Frame, stored: Answers
) -> Parity:
    """Compare an engine's outputs with ONNX Runtime's on the graph that the engine was built from.

    If ONNX Runtime is not installed, compare with the outputs stored in the folder (torch, float32).
    """
    batch = manifest.input.shape[0]
    gate = EIGHT_BIT_AGREEMENT if manifest.is_eight_bit(graph.name) else AGREEMENT
    groups = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    got = _together(list(infer_all(session, groups)))
    try:
        reference = OnnxSession(graph, "cpu")
    except MissingDependencyError:
        return compare(got, stored, engine, "the folder's stored outputs", gate)
    try:
        expected = _together([reference.infer(group) for group in groups])
    finally:
        reference.close()
    return compare(got, expected, engine, f"onnxruntime cpu, {graph.name}", gate)


def compare(got: Answers, expected: Answers, graph: str, reference: str, gate: float = AGREEMENT) -> Parity:
    """Compare classes and scores of two sets of outputs; passes if the share of equal classes is at least `gate`.

    `max_error` is over the float outputs that both have (`scores`, or `confidence`), not over logits, which an engine
    does not output. Outputs with a value that is not finite never pass.
    """
    classes = [_classes(answer) for answer in (got, expected)]
    floats = [name for name in ("scores", "confidence") if name in got and name in expected]
    finite = all(np.isfinite(got[name]).all() for name in got if got[name].dtype.kind == "f")
    agreement = float((classes[0] == classes[1]).mean()) if finite else 0.0
    error = max((_error(got[name], expected[name]) for name in floats), default=0.0) if finite else float("inf")
    return Parity(
        graph=graph,
        reference=reference,
        frames=len(classes[0]),
        max_error=min(error, float(np.finfo(np.float32).max)),  # JSON has no infinity
        agreement=agreement,
        passed=agreement >= gate,
    )


def _error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got - expected).max()) / (float(np.abs(expected).max()) or 1.0)


def _classes(answer: Answers) -> NDArray[Any]:
    return answer["class_map"] if "class_map" in answer else answer["scores"].argmax(1)


def _together(outputs: Sequence[Any]) -> Answers:
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
