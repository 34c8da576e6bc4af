"""Triton answers from what is exported, where `make test-triton` has installed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_runtime.errors import GateError
from tests.proof.triton import KINDS, TRITON, answers, serving

pytestmark = pytest.mark.skipif(not TRITON.complete, reason="make test-triton has not installed Triton")


@pytest.mark.parametrize(("task", "precision"), KINDS)
def test_clients_get_what_onnx_runtime_gives(task: str, precision: str, tmp_path: Path) -> None:
    assert "up to" in answers(task, precision, tmp_path).seen


def test_a_repository_that_triton_refuses_is_reported_in_one_line(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "aselect_seg"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text('name: "aselect_seg" platform: "onnxruntime_onnx" bathc: 1')
    refused = pytest.raises(GateError, match=r"\Atritonserver: got no model that is ready .*\Z")
    with refused, serving(tmp_path / "repository", "aselect_seg", tmp_path):
        raise AssertionError("it is ready")
    assert not list(Path("/dev/shm").glob("aselect_triton_*"))
