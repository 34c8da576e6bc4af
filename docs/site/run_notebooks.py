"""Run the notebooks: each must run to its end without an error.

    python docs/site/run_notebooks.py [--write] [NOTEBOOK …]

`--write` stores the outputs in the notebooks: text and images, without warnings, times and execution numbers.
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
SECONDS = 1800
"""Most that one cell may take."""


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        book = executed(path)
        if arguments.write:
            path.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
        print(path)


def executed(path: Path) -> Any:
    """The notebook with new outputs; raises nbclient's CellExecutionError with the cell that failed."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=SECONDS, kernel_name="python3").execute(cwd=str(path.parent))
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
                if image := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = compact(image)
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python"}
    return book


def compact(image: str) -> str:
    """A PNG (base64) in 256 colours, about a third of the bytes."""
    out = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    main()
