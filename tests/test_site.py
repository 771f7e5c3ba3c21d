"""Pages of the site: their code runs, and the navigation names each of them. `make site` checks links and anchors."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NAVIGATION = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
GENERATED = {"index.md", "contributing.md"}
DOCS = ROOT / "docs"
FOLDERS = ("coming_from", "data", "how_it_works", "how_to", "tutorials")
FOUND = {page.stem: page for folder in FOLDERS for page in sorted((DOCS / folder).glob("*.md"))}
# Pages that compile a large update, and one that starts Ray.
LONG = [FOUND.pop(name) for name in ("atari", "checkpoints", "ppo_lunarlander", "priorities")]
FOUND.pop("ray")
# tests/test_readme.py runs these. The block on the page of clusters needs a cluster: tests/collectors runs its like.
RUN_ELSEWHERE = {"clusters", "hindsight", "migration", "mixtures", "recurrent", "reference", "samplers", "sequences"}
# What a page says, and what is run instead: fewer rounds, smaller buffers.
SHORTER = {
    "dqn": {"CALLS = 40": "CALLS = 2", "UPDATES_A_CALL = 0.99, 64, 250": "UPDATES_A_CALL = 0.99, 64, 20"},
    "offline": {"STEPS = 20_000": "STEPS = 4_000"},
    "atari": {"CAPACITY = 1_000_000": "CAPACITY = 4_000", "ROUNDS = 40_000": "ROUNDS = 2", "= 50_000": "= 1_000"},
    "ppo_lunarlander": {"CALLS = 24": "CALLS = 1", "STEPS = 512": "STEPS = 32", "max_steps=1000": "max_steps=50"},
}
# Packages that blocks import and that not each environment of the tests has.
NEEDED = ("jax", "torch")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def can_run(block: str) -> bool:
    """Whether the packages are installed that a block imports."""
    return all(importlib.util.find_spec(name) for name in NEEDED if re.search(rf"^import {name}$", block, re.MULTILINE))


PAGES = [page for page in FOUND.values() if blocks(page.read_text())]


def test_the_navigation_names_each_page_once() -> None:
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).with_suffix(".md") for kind in ("*.md", "*.ipynb") for page in docs.rglob(kind)}
    assert sorted(re.findall(r"[\w/]+\.md", NAVIGATION)) == sorted({*map(str, pages), *GENERATED})


def executed(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the blocks of a page one after the other, with long loops shortened as `SHORTER` says."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    text = page.read_text()
    for long, short in SHORTER.get(page.stem, {}).items():
        assert text.count(long) == 1, long
        text = text.replace(long, short)
    names: dict[str, Any] = {"__name__": page.stem}
    assert blocks(text)
    runnable = [(number, block) for number, block in enumerate(blocks(text)) if can_run(block)]
    if not runnable:
        pytest.skip(f"a package of {page.name} is not installed")
    for number, block in runnable:
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(page, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG, ids=lambda page: page.stem)
def test_the_code_of_a_long_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(page, tmp_path, monkeypatch)


@pytest.mark.usefixtures("ray_runtime")
def test_the_code_of_the_page_on_ray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(DOCS / "how_to" / "ray.md", tmp_path, monkeypatch)


def test_the_return_of_the_tour_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executed(DOCS / "tour.md", tmp_path, monkeypatch)
    first, *_, last = (float(mean) for mean in re.findall(r"mean return (\S+),", capsys.readouterr().out))
    assert last > 3 * first


def test_each_page_with_code_is_run() -> None:
    run = {*PAGES, *LONG, DOCS / "tour.md", DOCS / "how_to" / "ray.md"}
    with_code = {page for page in DOCS.rglob("*.md") if blocks(page.read_text())}
    assert with_code - run == {DOCS / f"{name}.md" for name in RUN_ELSEWHERE}
    assert {page.stem for page in run} >= SHORTER.keys()


REFERENCE = [name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]


def documented(name: str) -> Any:
    module, _, thing = name.rpartition(".")
    return importlib.import_module(name) if name == "really.errors" else getattr(importlib.import_module(module), thing)


def test_each_page_of_the_reference_names_objects_that_there_are() -> None:
    assert len(REFERENCE) > 10
    for name in REFERENCE:
        assert inspect.getdoc(documented(name)), name


def test_the_reference_has_each_public_class_and_function() -> None:
    shown = {name.rpartition(".")[2] for name in REFERENCE} | set(vars(importlib.import_module("really.errors")))
    for package in sorted((ROOT / "really").glob("[a-z]*/__init__.py")):
        module = importlib.import_module(f"really.{package.parent.name}")
        public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        found = {name for name, thing in public.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
        assert found <= shown, module.__name__


def test_docstrings_of_the_reference_refer_to_what_the_reference_has() -> None:
    """A reader of the site, or of `help`, does not see the module that another docstring is in."""
    pages = {name.rpartition(".")[2] for name in REFERENCE} | set(vars(importlib.import_module("really.errors")))
    found = []
    for name in REFERENCE:
        shown = documented(name)
        members = inspect.getmembers(shown) if inspect.isclass(shown) else []
        for member, thing in [(name, shown), *members]:
            if not member.startswith("_"):
                text = inspect.getdoc(thing) or ""
                named = re.findall(r"\(`([a-z_]+\.\w+|\w+/[\w/.]+)`", text) + re.findall(r"\(`([A-Z]\w*[a-z]\w*)", text)
                found += [f"{name}, {member}: {other}" for other in named if other not in pages]
    assert not found
