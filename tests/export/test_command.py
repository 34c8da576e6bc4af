"""The command aselect-export: its JSON, and mistakes as one line that leaves nothing."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from aselect_export import open_bundle
from aselect_export.commands.export import export as export_command
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import InputError
from tests import forked
from tests.bundles import command, write_bundle


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--precision", "fp32", "--allow-mixed"], "leave it out"),
        (["--task", "cls"], r"use the task seg or choose another model \(--task, --model\)"),
        (["--calib-images", "0"], r"got calib images 0.*\(--calib-images\)"),
        (["--imgsz", "50x64"], "multiples of the patch size 8"),
        (["--engine", "none", "--target", "sm86"], r"leave one out \(--engine, --target\)"),
        pytest.param(
            ["--target", "sm86,sm999"],
            "sm999.*sm75.*sm86",
            marks=pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed"),
        ),
        (["--data", "/nowhere"], "no such folder"),
        (["--out", "/dev/null/export"], "could not write"),
        (["--model", "/nowhere"], "no such folder"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    arguments: list[str],
    told: str,
    seg_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = command(export_command, monkeypatch, "--model", str(seg_bundle), *arguments)
    said = capsys.readouterr()
    assert code == 1
    assert re.search(told, said.err)
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--precision", "fp12", "fp32"),
        ("--task", "pose", "cls"),
        ("--imgsz", "48", "HxW"),
        ("--engine", "onnx", "tensorrt"),
        ("--calib", "guess", "entropy"),
        ("--rest", "bf16", "fp16"),
        ("--format", "zip", "triton"),
        ("--batch", "0", "1"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    option: str,
    value: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(export_command, monkeypatch, option, value) == 2
    said = capsys.readouterr()
    assert re.search(rf"Error: Invalid value for '?{option}'?: .*{expected}", said.err)
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bundle.json", "backbone.safetensors", "head.safetensors"])
@pytest.mark.parametrize("size", [0, 100, None])
def test_a_damaged_bundle_is_refused(tmp_path: Path, name: str, size: int | None) -> None:
    folder = write_bundle(tmp_path / "bundle")
    content = (folder / name).read_bytes()
    if size is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[:size])
    with pytest.raises(InputError, match=re.escape(name)):
        open_bundle("seg", folder)


@pytest.mark.parametrize("layout", ["folder", "triton", "deepstream"])
def test_the_next_command_can_be_typed_as_it_is_shown(
    seg_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: str,
) -> None:
    out = tmp_path / "it's $HOME; two words"
    arguments = ["--model", str(seg_bundle), "--precision", "fp32", "--engine", "none", "--no-ladder"]
    assert command(export_command, monkeypatch, *arguments, "--format", layout, "--out", str(out)) == 0
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1].rpartition("; next: ")[2])
    assert {"folder": str(out), "triton": str(out), "deepstream": f"config-file-path={out}/config_infer.txt"}[
        layout
    ] in words


ENDED = """
import os, signal
from aselect_export import package
from aselect_export.commands.export import export

written = package.write_verification

def write_verification(*arguments):
    written(*arguments)  # and the graphs, before
    os.kill(os.getpid(), signal.SIGTERM)

package.write_verification = write_verification
export()
"""


@pytest.mark.parametrize("layout", ["folder", "triton", "deepstream"])
def test_sigterm_leaves_nothing_beside_the_folder(seg_bundle: Path, tmp_path: Path, layout: str) -> None:
    choices = ["--precision", "fp32", "--engine", "none", "--format", layout]
    done = forked.run("-c", ENDED, "--model", seg_bundle, *choices, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "ended by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_object_and_nothing_else(
    seg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--model", str(seg_bundle), "--precision", "fp32", "--engine", "none", "--out", str(out), "--json"]
    assert command(export_command, monkeypatch, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(out)
    assert found["manifest"]["precision"] == "fp32"
