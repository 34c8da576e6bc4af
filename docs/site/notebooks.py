"""Notebooks as pages of the site: their text, code and stored outputs as Markdown."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, and the images of its outputs."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, images = page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from other pages to a notebook lead to its page."""
    return markdown if page.file.generated_by else linked(markdown)


def linked(text: str) -> str:
    """Markdown whose links to notebooks are links to their pages."""
    return re.sub(r"(\]\((?:[\w/.-]*/)?[\w-]+)\.ipynb\)", r"\1.md)", text)


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and the images in its outputs by file name."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts, images = [], {}
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(linked(text))
            continue
        parts.append(_block("python", text))
        for place, output in enumerate(cell["outputs"]):
            name = f"{path.stem}-{number}-{place}.png"
            if image := output.get("data", {}).get("image/png"):
                images[name] = base64.b64decode("".join(image))
                parts.append(f"![Output of the code above]({name})")
            else:
                shown = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
                parts.append(_block("text", "".join(shown)))
    return "\n\n".join([*parts, f"[Download this notebook]({path.name})"]) + "\n", images


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
