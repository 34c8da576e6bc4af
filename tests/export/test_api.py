"""export and evaluate as functions: what they write and return, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aselect_export import evaluate, export
from aselect_runtime.errors import InputError


def test_a_bundle_is_exported_into_a_folder_of_its_name(
    seg_bundle: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    result = export(
        "seg",
        "fp32",
        model=str(seg_bundle),
        imgsz="48x64",
        engine="none",
        progress=lambda what, _share: told.append(what),
    )
    assert result.folder == Path("seg-fp32")
    assert result.rung == "fp32"
    assert all(parity.passed for parity in result.report.parity)
    assert told
    evaluation = evaluate(str(result.folder), str(labelled))
    assert (evaluation.metric, evaluation.split, evaluation.images) == ("miou", "test", 2)
    assert evaluation.score > 0.99


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "fp12"}, "expected one of fp32, fp16"),
        ({"task": "pose"}, "expected one of seg, cls"),
        ({"task": "cls"}, "a bundle for seg"),
        ({"engine": "onnx"}, "expected one of auto"),
        ({"engine": "none", "target": ["sm86"]}, "leave one out"),
        ({"format": "zip"}, "expected one of folder"),
        ({"imgsz": (50, 64)}, "multiples of the patch size 8"),
        ({"calib": "guess"}, "expected one of minmax"),
        ({"calib": "mse"}, "the precision fp16, which quantises nothing"),
        ({"rest": "fp32", "precision": "fp32"}, "the precision fp32, which quantises nothing"),
        ({"model": "/nowhere"}, "no such folder"),
    ],
)
def test_mistakes_leave_nothing(
    options: dict[str, Any], told: str, seg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        export(**{"model": seg_bundle, **options})
    assert not list(tmp_path.iterdir())
