"""The Dockerfile for Jetsons cannot be built here; what it names must at least exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker" / "Dockerfile.l4t").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n\s*", "", TEXT).splitlines()


def instructions(name: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_is_all_that_the_package_needs() -> None:
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
    assert copied == ["runtime"]
    for needed in ("pyproject.toml", "README.md", "LICENSE", "aselect_runtime"):
        assert (ROOT / "runtime" / needed).exists(), needed


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_the_extra_and_the_commands_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r"pip install '\./runtime\[(\w+)\]'", TEXT)
    assert extra in project["optional-dependencies"]
    for command in re.findall(r"\baselect-(?!edge|runtime)\w+", TEXT):
        assert command in project["scripts"], command


def test_jetpack_is_never_shadowed() -> None:
    assert "--system-site-packages" in TEXT
    pyproject = (ROOT / "runtime" / "pyproject.toml").read_text()
    jetson = re.search(r"^jetson = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert jetson
    assert "opencv" not in jetson[1]
    assert "tensorrt" not in jetson[1]
    assert '"numpy>=1.26,<2"' in jetson[1]  # JetPack's OpenCV is built for NumPy 1 and does not import beside NumPy 2
    assert re.search(r"\bapt-get install -y .*python3-opencv", " ".join(LINES))


def test_the_base_is_nvidias_for_each_jetpack() -> None:
    assert instructions("ARG") == ["BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0"]
    assert instructions("FROM") == ["${BASE}"]
    assert re.search(r"BASE=nvcr\.io/nvidia/tensorrt:\d\d\.\d\d-py3", TEXT)


@pytest.mark.parametrize("page", ["jetson", "triton", "deepstream"])
def test_the_pages_name_commands_that_exist(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    declared = (ROOT / "pyproject.toml").read_text() + (ROOT / "runtime" / "pyproject.toml").read_text()
    scripts = set(re.findall(r"^(aselect-\w+) =", declared, re.MULTILINE))
    assert set(re.findall(r"\baselect-(?!edge|runtime)\w+", text)) <= scripts
