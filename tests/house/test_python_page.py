"""docs/python.md is true: each of its blocks runs, as it stands, where its files are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from aselect_export import export
from aselect_runtime.scenes import Street

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def exported(seg_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the street's classes."""
    out = tmp_path_factory.mktemp("page") / "seg"
    return export(model=seg_bundle, precision="fp32", ladder=False, engine="none", out=out).folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path, street_data: Path, clip: Path) -> Path:
    """A working directory with the files that the page names."""
    shutil.copytree(exported, tmp_path / "seg-fp16")
    shutil.copytree(street_data, tmp_path / "camvid")
    shutil.copy(clip, tmp_path / "street.mp4")
    frame, _ = Street(seed=0, height=96, width=128).frame(30)
    cv2.imwrite(str(tmp_path / "street.jpg"), frame)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs(number: int, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[number], f"docs/python.md, block {number}", "exec"), names)
    assert number == 2 or capsys.readouterr().out
    written = {0: "painted.png", 3: "noise.jsonl", 4: "trained/manifest.json"}
    assert number not in written or (here / written[number]).is_file()


def test_the_page_has_the_blocks_that_are_meant() -> None:
    assert len(BLOCKS) == 5
    assert "aselect_edge" in BLOCKS[4]
