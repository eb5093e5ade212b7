"""Lets the site's pages link to files outside docs/ as they do on GitHub: `../SECURITY.md`.

Pages and images that are linked become part of the site. Links to other files and folders of the repository, which the
site does not hold, become plain text.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
HELD = (".md", ".png", ".jpg")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and images outside docs/ that pages link."""
    pages = [file for file in files if file.is_documentation_page()]
    for page in pages:
        for path in _linked(page):
            if path.suffix in HELD and path.is_file() and not files.get_file_from_path(_site_path(path)):
                added = File.generated(config, _site_path(path), abs_src_path=str(path))
                files.append(added)
                pages += [added] * added.is_documentation_page()
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links to where the site holds their files."""

    def led(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = _site_path(_target(page.file, target))
        if not files.get_file_from_path(path):
            return text
        return f"{image}[{text}]({posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or '.')}{anchor or ''})"

    return LINK.sub(led, markdown)


def _linked(page: File) -> Iterator[Path]:
    for _, _, target, _ in LINK.findall(page.content_string):
        yield _target(page, target)


def _target(page: File, target: str) -> Path:
    return (Path(page.abs_src_path or "").parent / target).resolve()


def _site_path(path: Path) -> str:
    """Returns where a file lies in the site: those of docs/ at its top, others as in the repository."""
    docs = ROOT / "docs"
    return path.relative_to(docs if path.is_relative_to(docs) else ROOT).as_posix()
