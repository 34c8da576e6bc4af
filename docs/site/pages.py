"""Pages of the site that lie elsewhere in the repository: their links are turned to where the site has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {"contribute.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "models.md": "weights/README.md"}
"""Page of the site -> file of the repository."""
_PAGES = {ROOT / path: page for page, path in ELSEWHERE.items()}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for place, page in _PAGES.items():
        files.append(File.generated(config, page, content=relinked(place.read_text(encoding="utf-8"), place.parent)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page in docs/ that leave the folder."""
    return markdown if page.file.generated_by else relinked(markdown, (DOCS / page.file.src_uri).parent)


def relinked(text: str, folder: Path) -> str:
    """`text` of a file in `folder`; a link to a file that the site does not have becomes the file's name.

    Images are only looked for in docs/.
    """

    def turned(match: re.Match[str]) -> str:
        mark, label, target, anchor = match[1], match[2], (folder / match[3]).resolve(), match[4] or ""
        if target in _PAGES:
            return f"[{label}]({_PAGES[target]}{anchor})"
        if target.is_relative_to(DOCS):
            inside = folder.is_relative_to(DOCS)
            return match[0] if inside else f"{mark}[{label}]({target.relative_to(DOCS).as_posix()}{anchor})"
        if mark:
            return match[0]
        return f"{label} (`{target.relative_to(ROOT).as_posix()}`)"

    return re.sub(r"(!?)\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", turned, text)
