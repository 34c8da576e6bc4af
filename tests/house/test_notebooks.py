"""The notebooks run, look alike, and their stored outputs are small; the site has each as a page with its images."""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
GREY_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


def test_the_list_has_all_of_them() -> None:
    text = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 4
    assert all(f"(notebooks/{path.name})" in text for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_is_valid_small_and_shows_what_it_made(path: Path) -> None:
    book: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(book)
    assert path.stat().st_size < 1_000_000
    assert book["cells"][0]["source"][0].startswith("# ")
    shown = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_uses_the_public_api_alone(path: Path) -> None:
    """Names are imported from a package's `__all__`; `aselect_runtime.scenes` draws the synthetic data."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    tree = compile(code, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "aselect" in str(node.module)]
    assert imports
    for node in imports:
        if node.module == "aselect_runtime.scenes":
            continue
        public = importlib.import_module(str(node.module)).__all__
        assert {alias.name for alias in node.names} <= set(public), ast.unparse(node)


def test_the_lightest_runs_to_its_end() -> None:
    """The others with `make test-notebooks`."""
    book = _site("run_notebooks").executed(ROOT / "docs/notebooks/web.ipynb")
    assert sum("image/png" in output.get("data", {}) for cell in book.cells for output in cell.get("outputs", [])) >= 2


def test_a_page_has_text_code_output_and_images(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["two\n", "lines\n"]},
        {"output_type": "display_data", "data": {"image/png": GREY_PIXEL, "text/plain": ["<Figure>"]}},
        {"output_type": "execute_result", "data": {"text/plain": ["{'a': 1}"]}},
    ]
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "source": ["# Title\n", "[next](other.ipynb) [data](../data.md)"]},
        {"cell_type": "code", "source": ["x = f[0](a.ipynb)\n"], "outputs": outputs},
    ]
    path = tmp_path / "first.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    text, images = _site("notebooks").page(path)
    assert text == (
        "# Title\n[next](other.md) [data](../data.md)\n\n"
        "```python\nx = f[0](a.ipynb)\n```\n\n"
        "```text\ntwo\nlines\n```\n\n"
        "![Output of the code above](first-1-1.png)\n\n"
        "```text\n{'a': 1}\n```\n\n"
        "[Download this notebook](first.ipynb)\n"
    )
    assert images == {"first-1-1.png": base64.b64decode(GREY_PIXEL)}


def _site(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/site/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
