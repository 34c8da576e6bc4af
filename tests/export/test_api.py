"""export and evaluate as functions: what they write and return, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aselect_export import evaluate, export
from aselect_export.requests import Given
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
        ({"calib": "mse"}, "calib mse with the precision fp16, where it has no effect"),
        ({"calib": "mse", "weights": "int4"}, "calib mse with the precision fp16 and int4 weights"),
        ({"rest": "fp32", "precision": "fp32"}, "rest fp32 with the precision fp32, .* only with int8, fp8 or int4"),
        ({"calib_images": True, "precision": "int8"}, "got calib images True, expected a whole number from 1 on"),
        ({"calib_images": 128}, "calib images 128 with the precision fp16"),
        ({"calib_images": 4, "precision": "fp32", "data": "."}, "calib images 4 with the precision fp32"),
        ({"calib_images": 4, "precision": "int8"}, "calib images 4 with no data"),
        ({"max_drop": 0.0}, "max drop 0.0 with the precision fp16"),
        ({"max_drop": 0.1, "precision": "fp32", "data": "."}, "max drop 0.1 .* another encoder than the full one"),
        ({"allow_mixed": True, "precision": "fp32"}, "allow mixed with the precision fp32"),
        ({"allow_mixed": True, "weights": "int4"}, "allow mixed with int4 weights"),
        ({"format": "deepstream", "target": "sm86"}, "target sm86 with the format deepstream"),
        ({"format": "deepstream", "engine": "tensorrt"}, "engine tensorrt with the format deepstream"),
        ({"format": "triton", "target": "sm86, sm89"}, "target sm86, sm89 with the format triton, .* engine tensorrt"),
        ({"format": "triton", "engine": "rtx"}, "engine rtx with the format triton"),
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


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        ({"calib": "mse", "calib_images": 4, "rest": "fp32", "max_drop": 0.1}, {"precision": "int8", "data": True}),
        ({"calib": "mse", "max_drop": 0.1}, {"precision": "int8"}),  # by the bundle's ranges, and agreement
        ({"calib_images": 4}, {"precision": "fp8", "data": True}),
        ({"rest": "fp16", "max_drop": 0.0}, {"weights": "int4"}),
        ({"max_drop": 0.1}, {"encoder": "tiny", "data": True}),
        ({"targets": ("sm86",)}, {"layout": "triton", "engine": "tensorrt"}),
        ({"targets": ("sm86",)}, {"engine": "rtx"}),
    ],
)
def test_options_that_have_an_effect_are_taken(options: dict[str, Any], choices: dict[str, Any]) -> None:
    left_out: dict[str, Any] = {"calib_images": None, "calib": None, "max_drop": None, "rest": None, "targets": ()}
    usual: dict[str, Any] = {"weights": None, "encoder": "full", "engine": "auto", "layout": "folder", "data": False}
    Given(**left_out | options).check(**{"precision": "fp16"} | usual | choices)
