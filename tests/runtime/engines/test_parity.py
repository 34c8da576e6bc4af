"""Which graph of a folder is used, and when an engine's results count as those of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aselect_runtime.engines.parity import check_parity, compare, first_passing
from aselect_runtime.errors import EngineError, GateError
from aselect_runtime.folder import load_folder
from aselect_runtime.frames import Frame
from aselect_runtime.records import Parity
from aselect_runtime.results import Arrays
from aselect_runtime.sessions.onnx import OnnxSession
from tests.runtime.manifests import small_manifest

IS_FP32 = small_manifest().is_fp32


def parity(agreement: float) -> Parity:
    return Parity(graph="g", reference="r", frames=1, max_error=0, agreement=agreement, passed=agreement >= 0.995)


def test_the_first_graph_that_passes_is_used() -> None:
    built: list[str] = []

    def build(rung: str) -> str:
        built.append(rung)
        return rung.upper()

    found = first_passing(("a", "b", "c"), build, lambda rung, _: parity(1.0 if rung == "b" else 0.3), IS_FP32)
    assert (found.rung, found.built, built) == ("b", "B", ["a", "b"])
    assert [p.agreement for p in found.parity] == [0.3, 1.0]
    with pytest.raises(GateError, match=r"a 30\.000%, b 30\.000%"):
        first_passing(("a", "b"), build, lambda *_: parity(0.3), IS_FP32)


def test_a_graph_that_does_not_run_is_skipped_and_not_counted_as_failed() -> None:
    def measured(rung: str, _: str) -> Parity:
        if rung == "a":
            raise EngineError("no kernel")
        return parity(0.3 if rung == "b" else 1.0)

    assert first_passing(("a", "b", "c"), str.upper, measured, IS_FP32).rung == "c"
    with pytest.raises(GateError, match=r"on b 30\.000%, expected"):
        first_passing(("a", "b"), str.upper, measured, IS_FP32)
    with pytest.raises(EngineError, match="no kernel"):
        first_passing(("a",), str.upper, measured, IS_FP32)


@pytest.mark.parametrize(("precision", "passes"), [("int8", True), ("fp16", False)])
def test_int8_may_differ_a_little_more(seg_model: Path, precision: str, passes: bool) -> None:
    manifest, graph = load_folder(seg_model)
    manifest = manifest.model_copy(update={"precision": precision})
    frames = np.random.default_rng(0).integers(0, 256, manifest.input.shape, np.uint8)
    session = OnnxSession(graph, "cpu")

    class Nearly:
        device = "tensorrt"

        def infer(self, batch: Frame) -> Arrays:
            answer = dict(session.infer(batch))
            answer["class_map"] = answer["class_map"].copy()
            answer["class_map"].flat[: answer["class_map"].size // 100] ^= 1  # one pixel of a hundred
            return answer

        def close(self) -> None:
            session.close()

    found = check_parity(Nearly(), "engine", graph, manifest, frames, {})
    assert found.passed is passes
    assert 0.985 < found.agreement < 0.995


def test_values_that_are_not_finite_never_pass() -> None:
    frames: dict[str, Any] = {
        "class_map": np.zeros((2, 4, 4), np.uint8),
        "confidence": np.full((2, 2, 2), np.nan, np.float32),
    }
    found = compare(frames, frames, "engine", "reference")
    assert (found.passed, found.agreement) == (False, 0.0)
    scores = {"scores": np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)}
    assert compare(scores, {"scores": scores["scores"][:, ::-1]}, "e", "r").agreement == 0.0
    assert compare(scores, scores, "e", "r").passed
