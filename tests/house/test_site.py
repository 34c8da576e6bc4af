"""The documentation as a site: it builds without a warning, every page is in its menu, and it asks no other host."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_built_and_in_the_menu(site: Path) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in ROOT.glob("docs/notebooks/*.ipynb")}
    menu = list(_leaves(nav))
    assert sorted(menu) == sorted(pages | notebooks | {"contribute.md", "changelog.md", "models.md"})
    for page in menu:
        assert (site / page).with_suffix(".html").is_file(), page


def _leaves(nav: Any) -> Iterator[str]:
    """The pages of a menu in mkdocs' form: a page, or a mapping of a title to a page or to a list of such items."""
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(item)


def test_the_reference_says_what_the_docstrings_say(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text(encoding="utf-8"))
    assert "An exported model, ready to run" in page
    for name in ("Model", "Result", "run_pipeline", "select", "train", "export", "evaluate"):
        assert name in page


def test_no_page_asks_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", path.read_text(encoding="utf-8")):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), (path.name, tag)


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        ("", "[a](docs/data.md#x)", "[a](data.md#x)"),
        ("weights", "[a](../docs/int8.md)", "[a](int8.md)"),
        ("weights", "![seen](../docs/models.jpg)", "![seen](models.jpg)"),
        ("weights", "[terms](NOTICE)", "terms (`weights/NOTICE`)"),
        ("docs", "[card](../weights/README.md)", "[card](models.md)"),
        ("docs", "[a](data.md) ![b](../c.png) [d](https://e.org) [f](#g)", None),
    ],
)
def test_links_lead_to_where_the_site_has_the_file(folder: str, text: str, expected: str | None) -> None:
    assert _pages().relinked(text, ROOT / folder) == (expected or text)


def _pages() -> Any:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
