"""The README is true: its commands exist with their options, its tables are what the benchmarks wrote."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tomllib

from aselect_export import export
from aselect_runtime import __version__
from benchmarks.table import marked, pages
from tests.house.help_pages import ENTRIES, help_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}


def commands(text: str) -> list[list[str]]:
    """The lines of a page's shell blocks, as words; a line that ends in a backslash goes on.

    `aselect run` is told as `aselect-run`, which is the same.
    """
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    return [[f"aselect-{words[1]}", *words[2:]] if words[0] == "aselect" else words for words in found]


COMMANDS = commands(README)


@pytest.mark.parametrize("name", ENTRIES)
def test_commands_and_options_exist(name: str) -> None:
    shown = help_of(name)
    every = [command for page in PAGES.values() for command in commands(page) if command[0] == name]
    used = {word.partition("=")[0] for command in every for word in command if word.startswith("--")}
    assert all(re.search(rf"{option}\b", shown) for option in used), (used, shown)
    declared = [(ROOT / place / "pyproject.toml").read_text(encoding="utf-8") for place in ("", "runtime")]
    assert [f'{name} = "{ENTRIES[name]}"' in text for text in declared].count(True) == 1


def test_every_command_is_known() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in COMMANDS:
        assert command[0] in {*ENTRIES, "make", "pip"}, command
        if command[0] == "make":
            assert command[1] in targets


@pytest.mark.parametrize("page", PAGES)
def test_packages_are_installed_from_the_clone(page: str) -> None:
    """They are not on PyPI: a name in a command would fail, or install something else."""
    declared = {
        place: tomllib.loads((ROOT / place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for place in (".", "runtime", "weights")
    }
    own = {project["name"] for project in declared.values()}
    for words in commands(PAGES[page]):
        if "pip" not in {Path(word).name for word in words[:2]}:
            continue
        for place, extras in (re.fullmatch(r"(.*?)(?:\[([\w,]+)\])?", word).groups() for word in words):  # type: ignore[union-attr]
            assert place not in own, words
            if wheel := re.fullmatch(r"wheels/aselect_runtime-([\d.]+)-py3-none-any\.whl", place):
                place = "runtime"
                assert wheel[1] in {__version__, "0.2.0"}  # the latter is the example of an update
            if extras and (project := declared.get(place.removeprefix("./"))):
                assert set(extras.split(",")) <= project["optional-dependencies"].keys(), words


def test_it_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


def test_the_first_example_runs(
    seg_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of aselect-run and the lines of Python, as they are written, on the folder of an export."""
    install, exporting, running = COMMANDS[:3]
    assert install[:2] == ["pip", "install"]
    folder = export(
        model=seg_bundle, precision="fp32", ladder=False, engine="none", out=tmp_path / exporting[-1]
    ).folder
    assert folder.name == running[1]
    monkeypatch.chdir(tmp_path)
    module, _, function = ENTRIES[running[0]].partition(":")
    code = f"from {module} import {function}; {function}()"
    subprocess.run([sys.executable, "-c", code, *running[1:]], check=True)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 3
    exec(compile(block, "README.md", "exec"), {})
    assert "'Road': 0." in capsys.readouterr().out


def test_the_reference_lists_every_command() -> None:
    rows = re.findall(r"^\| `aselect ([a-z]+)([^`]*)`", PAGES["reference.md"], re.MULTILINE)
    assert {f"aselect-{name}" for name, _ in rows} == set(ENTRIES)


def test_the_animation_moves_and_is_small() -> None:
    path = ROOT / "docs/street.webp"
    assert path.stat().st_size < 1_000_000
    done, animation = cv2.imreadanimation(str(path))
    assert done
    assert len(animation.frames) >= 20
    first, last = (np.asarray(animation.frames[index], int) for index in (0, 20))
    assert np.abs(first - last).mean() > 1


def test_figures_in_the_text_are_those_of_the_pages() -> None:
    """Percentages and counts of the limits are measured ones, which docs/pretraining.md has."""
    limits = README.split("## Limits")[1].split("\n## ")[0]
    figures = re.findall(r"\d+\.\d %|\d+,\d+ images", limits)
    assert len(figures) >= 3
    assert all(figure in PAGES["pretraining.md"] for figure in figures), figures


def test_tables_are_the_measured_ones() -> None:
    for page, tables in pages().items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, table in tables.items():
            assert marked(name, table) in text, (page, name)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert (folder / target).exists(), target


def test_the_layout_is_that_of_the_code() -> None:
    drawn = re.findall(
        r"^ {4}((?: {2})?)((?:[\w/]+/ ?)+)", CONTRIBUTING.split("## Layout")[1].split("\n## ")[0], re.MULTILINE
    )
    room, rooms, found = "", set[str](), set[str]()
    for indent, names in drawn:
        for name in names.split():
            room = room if indent else name
            assert (ROOT / (room + name if indent else name)).is_dir(), name
            (found if indent else rooms).add(room + name if indent else name)
    for place in ("runtime/aselect_runtime/", "aselect_edge/"):
        assert {name for name in found if name.startswith(place)} == {
            f"{place}{path.parent.name}/" for path in (ROOT / place).glob("*/__init__.py")
        }
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("*/aselect_*/__init__.py")}
    assert rooms >= packages | {"aselect_edge/", "research/", "benchmarks/", "tests/", "docs/", "docker/"}
