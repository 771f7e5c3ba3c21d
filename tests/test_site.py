"""Pages of the site: their code runs, and the navigation names each of them. `make site` checks links and anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NAVIGATION = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
GENERATED = {"index.md", "contributing.md"}
COMING_FROM = sorted((ROOT / "docs" / "coming_from").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def test_the_navigation_names_each_page_once() -> None:
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).with_suffix(".md") for kind in ("*.md", "*.ipynb") for page in docs.rglob(kind)}
    assert sorted(re.findall(r"[\w/]+\.md", NAVIGATION)) == sorted({*map(str, pages), *GENERATED})


@pytest.mark.parametrize("page", COMING_FROM, ids=lambda page: page.stem)
def test_the_code_of_a_page_for_users_of_another_package_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    assert blocks(page)
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_each_page_of_the_reference_names_objects_that_there_are() -> None:
    import importlib

    names = [
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    for name in names:
        if name != "really.errors":
            module, _, thing = name.rpartition(".")
            assert hasattr(importlib.import_module(module), thing), name
    assert len(names) > 10
