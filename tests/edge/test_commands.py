"""aselect-select and aselect-train as a shell calls them: exit codes, one line for errors, JSON for machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_edge.backbones.registry import FAMILIES
from aselect_edge.bundle import load_bundle
from aselect_edge.commands.backbone import FamilyName
from aselect_edge.commands.select import StrategyName, select
from aselect_edge.commands.train import train
from aselect_edge.selection import STRATEGIES
from aselect_runtime.errors import InputError
from aselect_runtime.options import parse_size
from aselect_runtime.records import Noise, Selection, Tap

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(command, *arguments)`: (exit code, stdout, stderr)."""

    def call(command: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aselect", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.fixture
def selection(tmp_path: Path) -> Path:
    noise = Noise(alpha=0.8, sigma=0.6, model_timestep=300)
    path = tmp_path / "selection.json"
    Selection(backbone="any", noise=noise, tap=Tap(block=1, component="key"), strategy="hfr").save(path)
    return path


def _one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert "expected" in lines[0]
    return lines[0]


def _wrong_usage(ended: tuple[int, str, str], option: str) -> None:
    code, out, err = ended
    assert (code, out) == (2, ""), err
    assert "Usage: " in err
    assert re.search(rf"Error: Invalid value for '?{option}'?: ", err), err
    assert "Traceback" not in err


def test_select_writes_a_record_and_its_image(
    run: Run, tmp_path: Path, backbone_folder: Path, street_data: Path
) -> None:
    out = tmp_path / "selection.json"
    arguments = ["--data", street_data, "--out", out, "--imgsz", "24x32", "--timesteps", "0,300", "--images", 3]
    code, printed, err = run(select, backbone_folder, *arguments, "--strategy", "hfr", "--blocks", 2)
    assert (code, printed) == (0, ""), err
    record = Selection.load(out)
    assert {score.noise.model_timestep for score in record.scores} == {0, 300}
    assert {score.tap.block for score in record.scores} == {0, 1}
    assert str(record.tap) in err
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    files = ["selection.features.png", "selection.json", "selection.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_select_takes_the_least_noise_at_a_tap_where_no_strategy_is_asked_for(
    run: Run, tmp_path: Path, backbone_folder: Path, street_data: Path
) -> None:
    out = tmp_path / "selection.json"
    arguments = ["--data", street_data, "--out", out, "--imgsz", "24x32", "--timesteps", "300,10", "--tap", "1.mlp"]
    code, _, err = run(select, backbone_folder, *arguments)
    assert code == 0, err
    record = Selection.load(out)
    assert (record.strategy, str(record.tap), record.noise.model_timestep) == ("smallest-sigma", "1.mlp", 10)
    assert "needs no measurement" in err
    assert [path.name for path in tmp_path.iterdir()] == ["selection.json"]  # there is nothing to draw


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["--timestep", "100", "--tap", "1.mlp"], ("fixed", "1.mlp", 100)),
        (["--timestep", "100"], ("fixed", "1.query", 100)),
        (["--tap", "1.mlp"], ("smallest-sigma", "1.mlp", 0)),
        (["--strategy", "smallest-sigma", "--timesteps", "300,10"], ("smallest-sigma", "1.query", 10)),
        (["--strategy", "fixed", "--timesteps", "300"], ("fixed", "1.query", 300)),
        ([], ("smallest-sigma", "1.query", 0)),
    ],
)
def test_a_selection_that_is_given_needs_no_data(
    run: Run, tmp_path: Path, backbone_folder: Path, asked: list[str], found: tuple[str, str, float]
) -> None:
    out = tmp_path / "selection.json"
    code, _, err = run(select, backbone_folder, "--out", out, *asked)
    assert code == 0, err
    record = Selection.load(out)
    assert (record.strategy, str(record.tap), record.noise.model_timestep) == found
    assert (record.scores, record.data) == ((), None)
    assert record.cost is not None
    assert record.cost.forward_passes == 0
    assert "needs no measurement" in err


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (["--strategy", "hfr"], "(--data, --strategy)"),
        (["--strategy", "probe"], "(--data, --strategy)"),
        (["--strategy", "fixed"], "(--timestep, --data)"),
        (["--strategy", "fixed", "--timesteps", "0,10", "--tap", "1.mlp"], "(--timestep, --data)"),
    ],
)
def test_a_strategy_that_looks_at_images_asks_for_data(
    run: Run, tmp_path: Path, backbone_folder: Path, asked: list[str], hint: str
) -> None:
    code, _, err = run(select, backbone_folder, "--out", tmp_path / "s.json", *asked)
    assert code == 1
    assert _one_line(err).endswith(hint)
    assert not list(tmp_path.iterdir())


def test_values_that_used_to_mean_not_given_still_do(
    run: Run, tmp_path: Path, backbone_folder: Path, street_data: Path, selection: Path
) -> None:
    """`--label -1`, `--images 0`, `--heads` and the like: scripts pass them."""
    old = ["--label", -1, "--images", 0, "--blocks", 0, "--heads", 0]
    few = ["--data", street_data, "--imgsz", "24x32", "--timesteps", "0", "--strategy", "hfr"]
    records = []
    for options in ([], old):
        code, _, err = run(select, backbone_folder, "--out", tmp_path / "s.json", *few, *options)
        assert code == 0, err
        records.append(Selection.load(tmp_path / "s.json").model_copy(update={"cost": None}))
    assert records[0] == records[1]
    old = ["--label", -1, "--batch", 0, "--lr", 0, "--backbone-lr", 0, "--patience", 0, "--threads", 0, "--heads", 0]
    few = ["--backbone", backbone_folder, "--selection", selection, "--data", street_data, "--head", "linear"]
    few += ["--imgsz", "16x24", "--samples", 8, "--unfreeze", "all", "--json"]
    scores = []
    for options, name in (([], "new"), (old, "old")):
        code, out, err = run(train, *few, *options, "--out", tmp_path / name)
        assert code == 0, err
        scores.append({key: value for key, value in json.loads(out).items() if key != "out"})
    assert scores[0] == scores[1]


def test_the_names_of_strategies_and_families_are_those_that_there_are() -> None:
    assert set(get_args(StrategyName)) == set(STRATEGIES)
    assert set(get_args(FamilyName)) == set(FAMILIES)


def test_select_prints_json_and_nothing_else(
    run: Run, backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    arguments = ["--data", street_data, "--out", tmp_path / "s.json", "--imgsz", "16x24", "--timesteps", "10"]
    code, out, _ = run(select, backbone_folder, *arguments, "--strategy", "probe", "--json")
    assert code == 0
    record = Selection.load(tmp_path / "s.json")
    assert json.loads(out) == {
        "out": str(tmp_path / "s.json"),
        "tap": str(record.tap),
        **record.noise.model_dump(),
    }


def test_train_writes_a_bundle(
    run: Run, selection: Path, backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    arguments = ["--backbone", backbone_folder, "--selection", selection, "--data", street_data, "--head", "linear"]
    arguments += ["--imgsz", "16x24", "--samples", "16", "--taps", "0.hidden,1.query", "--out", tmp_path / "bundle"]
    code, out, err = run(train, *arguments, "--json")
    assert code == 0, err
    loaded = load_bundle(tmp_path / "bundle")
    answer = json.loads(out)
    assert answer.keys() == {"out", "val_miou", "val_pixel_accuracy", "val_mean_accuracy"}
    assert answer["out"] == str(tmp_path / "bundle")
    assert answer["val_miou"] == loaded.record.metrics["val_miou"]
    assert [str(tap) for tap in loaded.record.taps] == ["0.hidden", "1.query"]
    assert loaded.record.imgsz == (16, 24)
    left = {path.name for path in (tmp_path / "bundle.training").iterdir()}
    plots = {"best.png", "confusion.png", "curve.png", "examples.png", "worst.png"}
    assert left == {"checkpoint.pt", "curve.csv", "features", "report.html", *plots}
    assert loaded.record.noise == Selection.load(selection).noise


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (["--strategy", "probe", "--task", "cls"], "--task"),
        (["--tap", "9.query"], ""),
        (["--cutoff", "2"], "--cutoff"),
        (["--strategy", "hfr", "--imgsz", "16x16"], "--imgsz, --cutoff"),
        (["--label", "7"], "--label"),
        (["--device", "abacus"], "--device"),
        (["--imgsz", "16x18"], "--imgsz"),
        (["--timesteps", "1000"], "--timestep, --timesteps"),
        (["--timesteps", "0.5"], "--timestep, --timesteps"),
        (["--confidence", "1"], "--confidence"),
        (["--out", "/proc/none/selection.json"], ""),
        (["--data", "no/such/folder"], ""),
    ],
)
def test_select_reports_an_error_in_one_line_and_names_the_option(
    run: Run, backbone_folder: Path, street_data: Path, tmp_path: Path, wrong: list[str], hint: str
) -> None:
    arguments = ["--data", street_data, "--out", tmp_path / "s.json", "--imgsz", "24x32", "--timesteps", "0", *wrong]
    code, out, err = run(select, backbone_folder, "--images", 2, *arguments)
    assert (code, out) == (1, "")
    line = _one_line(err)
    assert line.endswith(f"({hint})") if hint else "--" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--strategy", "magic"),
        ("--task", "depth"),
        ("--components", "query,soul"),
        ("--tap", "query"),
        ("--dimensions", "3"),
        ("--imgsz", "16"),
        ("--imgsz", "0x0"),
        ("--timesteps", "0,x"),
        ("--timesteps", "nan"),
        ("--timestep", "10"),  # beside --timesteps
        ("--head", "attention"),
        ("--family", "unet"),
        ("--out", "selection.png"),
    ],
)
def test_select_treats_options_that_cannot_be_parsed_as_wrong_usage(
    run: Run, backbone_folder: Path, street_data: Path, tmp_path: Path, option: str, value: str
) -> None:
    arguments = ["--data", street_data, "--out", tmp_path / "s.json", "--timesteps", "0", option, value]
    _wrong_usage(run(select, backbone_folder, *arguments), option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--task", "depth"),
        ("--head", "deep"),
        ("--loss", "hinge"),
        ("--unfreeze", "last:1"),  # without --finetune
        ("--backbone-lr", "1e-4"),  # without --finetune
        ("--taps", "query"),
        ("--imgsz", "17"),
    ],
)
def test_train_treats_options_that_cannot_be_parsed_as_wrong_usage(
    run: Run, selection: Path, backbone_folder: Path, street_data: Path, tmp_path: Path, option: str, value: str
) -> None:
    arguments = ["--backbone", backbone_folder, "--selection", selection, "--data", street_data]
    arguments += ["--out", tmp_path / "new" / "bundle", option, value]
    _wrong_usage(run(train, *arguments), option)
    _wrong_usage(run(train, *arguments[:-2], "--finetune", "--unfreeze", "first:1"), "--unfreeze")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--task", "cls"],
        ["--head", "attention"],
        ["--finetune", "--unfreeze", "last:9"],
        ["--device", "abacus"],
        ["--device", "cuda:99"],
        ["--taps", "9.query"],
        ["--imgsz", "17x24"],
        ["--selection", "none.json"],
        ["--backbone", "no/such/folder"],
        ["--data", "no/such/folder"],
    ],
)
def test_train_reports_an_error_in_one_line(
    run: Run, selection: Path, backbone_folder: Path, street_data: Path, tmp_path: Path, wrong: list[str]
) -> None:
    arguments = ["--backbone", backbone_folder, "--selection", selection, "--data", street_data]
    arguments += ["--imgsz", "16x24", "--samples", "8", "--out", tmp_path / "new" / "bundle"]
    code, out, err = run(train, *arguments, *wrong)
    assert (code, out) == (1, "")
    _one_line(err)
    assert not (tmp_path / "new").exists()


def test_a_wrong_device_is_reported_before_the_backbone_is_read(run: Run, selection: Path, tmp_path: Path) -> None:
    for command in (
        [select, "no/such/folder"],
        [train, "--backbone", "no/such/folder", "--selection", selection, "--out", tmp_path / "bundle"],
    ):
        code, _, err = run(*command, "--data", tmp_path, "--device", "abacus")
        assert code == 1
        assert "got the device 'abacus'" in err
        assert "(--device)" in err


@pytest.mark.parametrize("command", [select, train])
def test_usage_and_help(run: Run, command: Callable[[], None]) -> None:
    assert run(command, "--nonsense")[0] == 2
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--data" in out


def test_verbose_shows_the_traceback(run: Run, backbone_folder: Path, tmp_path: Path) -> None:
    code, _, err = run(select, backbone_folder, "--data", tmp_path / "none", "--verbose")
    assert code == 1
    assert "Traceback" in err


@given(height=st.integers(8, 8192), width=st.integers(8, 8192))
def test_a_size_is_read_as_it_is_written(height: int, width: int) -> None:
    assert parse_size(f"{height}x{width}") == parse_size(f"{height}X{width}") == (height, width)


@given(text=st.text(min_size=1, max_size=12) | st.from_regex(r"-?\d{0,5}x?\d{0,5}", fullmatch=True))
def test_any_text_is_a_size_or_an_input_error(text: str) -> None:
    try:
        size = parse_size(text)
    except InputError:
        return
    assert min(size) >= 8


def test_the_hub_offline_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the hub client reads its settings when it is imported."""
    code = (
        "import sys; from aselect_edge.commands.select import select; "
        "sys.argv[1:] = ['owner/name', '--data', '.']; select()"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "owner/name" in _one_line(done.stderr)
