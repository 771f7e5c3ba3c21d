"""Hooks of the site: pages from files outside of `docs/`, and links to such files as links to the repository.

The start page is README.md, the page for contributors CONTRIBUTING.md, and each tutorial its notebook.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    for source, page in PAGES.items():
        text = _linked((ROOT / source).read_text(), ROOT, Path(page), config)
        files.append(File.generated(config, page, content=text))
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        page = notebook.relative_to(ROOT / "docs").with_suffix(".md")
        text = _linked(_as_markdown(notebook, config), notebook.parent, page, config)
        files.append(File.generated(config, str(page), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of ordinary pages to files outside of `docs/` lead to the repository."""
    if page.file.generated_by is not None:
        return markdown
    here = ROOT / "docs" / page.file.src_uri
    return _linked(markdown, here.parent, Path(page.file.src_uri), config)


def _linked(text: str, folder: Path, page: Path, config: Any) -> str:
    """The text with each relative link of a file in `folder` as seen from `page`."""

    def moved(found: re.Match[str]) -> str:
        opening, target, anchor, closing = found.groups()
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return found[0]  # the strict build names it
        named = path.relative_to(ROOT)
        if str(named) in PAGES:
            named = Path("docs", PAGES[str(named)])
        elif named.parts[0] != "docs":
            return f"{opening}{config['repo_url']}/blob/main/{named}{anchor or ''}{closing}"
        elif named.suffix == ".ipynb":
            named = named.with_suffix(".md")
        to = os.path.relpath(named.relative_to("docs"), page.parent)
        return f"{opening}{to}{anchor or ''}{closing}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _as_markdown(notebook: Path, config: Any) -> str:
    """The cells of a notebook, and a link to it."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    title, *others = parts
    link = f"[Open it as a notebook]({config['repo_url']}/blob/main/{notebook.relative_to(ROOT)})."
    return "\n\n".join([title, link, *others]) + "\n"
