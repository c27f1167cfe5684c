"""Hook of mkdocs.yml: pages that include a file of the repository, and links from pages to such files.

`<!-- include: config/README.md -->` in a page stands for that file. A link to a file that is a page is a link to that
page. A link to any other file of the repository becomes its name: the site does not hold the source.
`<!-- modules: flare/models -->` stands for the reference of every plug-in of that folder, so that a new one is in it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_MODULES = re.compile(r"^<!-- modules: (\S+) -->$", re.MULTILINE)
# A link or an image, outside code: its text and its target.
_LINK = re.compile(
    r"(?P<code>^```.*?^```$|`[^`\n]*`)|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.M | re.S
)


def pages() -> dict[Path, Path]:
    """The page that includes each included file."""
    return {
        ROOT / name: page
        for page in sorted(DOCS.rglob("*.md"))
        for name in _INCLUDE.findall(page.read_text(encoding="utf-8"))
    }


def rendered(page: Path) -> str:
    """A page's Markdown as the site shows it."""
    homes = pages()
    text = _relinked(page.read_text(encoding="utf-8"), page, page, homes)
    text = _MODULES.sub(lambda found: _modules(found[1]), text)
    return _INCLUDE.sub(lambda found: _included(ROOT / found[1], page, homes), text)


def _modules(folder: str) -> str:
    names = sorted(path.stem for path in (ROOT / folder).glob("[!_]*.py"))
    return "\n".join(f"::: {folder.replace('/', '.')}.{name}" for name in names)


def _included(file: Path, page: Path, homes: dict[Path, Path]) -> str:
    return _relinked(file.read_text(encoding="utf-8"), file, page, homes)


def _relinked(text: str, file: Path, page: Path, homes: dict[Path, Path]) -> str:
    """The text of a file with its links as they are right in a page."""

    def replace(found: re.Match[str]) -> str:
        if found["code"] or re.match(r"[a-z]+:|#", found["target"]):
            return found[0]
        name, _, anchor = found["target"].partition("#")
        target = Path(os.path.normpath(file.parent / name))
        target = homes.get(target, target)
        if not target.is_relative_to(DOCS):
            # A missing file stays a link, which MkDocs reports.
            return found["text"] if target.exists() else found[0]
        place = os.path.relpath(target, page.parent)
        return f"{found['image']}[{found['text']}]({place}{'#' if anchor else ''}{anchor})"

    return _LINK.sub(replace, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs asks for every page's Markdown."""
    return rendered(Path(page.file.abs_src_path))
