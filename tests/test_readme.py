"""README, reference, migration page and architecture: code runs, links work, the API and every file are named."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import really
from really import ReplayBuffer, SampleManager, utils
from really._utils.names import Elsewhere
from tests.test_architecture import STEP_OF

pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
MIGRATION = (ROOT / "docs" / "migration.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


(QUICK_START,) = blocks(README, "python")


def public_names(thing: Any) -> set[str]:
    """Public methods and properties of a class, inherited ones included; verbs of other packages are none."""
    names = {name for name in dir(thing) if not name.startswith("_")}
    return {name for name in names if not isinstance(inspect.getattr_static(thing, name), Elsewhere)}


def test_the_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    script = tmp_path / "quick_start.py"
    script.write_text(QUICK_START)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = re.findall(r"^collected 1000 steps, mean reward 0\.020; .+ ended.*$", ran.stdout, re.MULTILINE)
    first, *_, last = (float(mean) for mean in re.findall(r"mean return (\S+),", ran.stdout))
    assert len(lines) == 12
    assert last > 2 * first
    assert len([line for line in QUICK_START.splitlines() if line.strip()]) <= 20


def test_the_contents_name_every_folder_of_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "really").glob("*/__init__.py")}
    cells = re.findall(r"^\| (`really\..+?) \| .*\]\(docs/", README, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`really\.(\w+)`", cell)]
    assert len(named) == len(set(named))
    assert set(named) == {name for name in folders if not name.startswith("_")}


@pytest.mark.usefixtures("ray_runtime")
def test_the_reference_runs_and_the_error_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "reference"}
    for number, block in enumerate(blocks(REFERENCE, "python")):
        exec(compile(block, f"reference.md, block {number}", "exec"), names)
    assert len(names["batch"]["reward"]) == 32
    assert names["epoch"] == 3
    (session,) = blocks(REFERENCE, "pycon")
    command, said = session.removeprefix(">>> ").rstrip().split("\n")
    with pytest.raises(really.ReallyError) as caught:
        eval(command, names)
    assert said == f"{type(caught.value).__module__}.{type(caught.value).__qualname__}: {caught.value}"


def test_the_migration_page_runs_and_its_error_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "migration"}
    for number, block in enumerate(blocks(MIGRATION, "python")):
        exec(compile(block, f"migration.md, block {number}", "exec"), names)
    (session,) = blocks(MIGRATION, "pycon")
    command, said = session.removeprefix(">>> ").rstrip().split("\n")
    with pytest.raises(AttributeError) as caught:
        eval(command, names)
    assert said == f"AttributeError: {caught.value}"


@pytest.mark.parametrize("page", ["samplers", "sequences", "mixtures", "hindsight", "recurrent"])
def test_a_page_of_the_buffer_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    names: dict[str, Any] = {"__name__": page}
    for number, block in enumerate(blocks((ROOT / "docs" / f"{page}.md").read_text(), "python")):
        exec(compile(block, f"{page}.md, block {number}", "exec"), names)


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    assert "\nmake demo " in first_screen
    assert "\nmake test " in first_screen
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= {*targets}


@pytest.mark.parametrize(
    "thing", [SampleManager, ReplayBuffer, utils, really], ids=["SampleManager", "ReplayBuffer", "utils", "really"]
)
def test_the_whole_api_is_named(thing: Any) -> None:
    names = public_names(thing) if inspect.isclass(thing) else set(thing.__all__)
    if inspect.isclass(thing):
        names |= set(inspect.signature(thing).parameters) - {"keys"}
    missing = {name for name in names if not re.search(rf"\b{name}\b", REFERENCE + MIGRATION)}
    assert not missing


def test_the_agents_methods_are_named() -> None:
    from really.agents.agent import Agent

    methods = {name for name in public_names(Agent) if not isinstance(getattr(Agent, name), property)}
    assert not {name for name in methods if not re.search(rf"\b{name}\(", REFERENCE + MIGRATION)}
    assert not {name for name in public_names(Agent) if not re.search(rf"\b{name}\b", REFERENCE + MIGRATION)}


def anchors(document: Path) -> set[str]:
    """Anchors of the document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "document", [path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^):]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_example_has_its_row() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")} - {
        "report.py",
        "experiment.py",
        "compare_n_step.py",
    }
    page = (ROOT / "docs" / "examples.md").read_text()
    assert set(re.findall(r"^\| `(?:KERAS_BACKEND=\w+ )?examples/(\w+\.py)[^`]*` \|", page, re.MULTILINE)) == scripts


def test_the_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 100
    assert README.count("![") == 1


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = {path.name for path in [*ROOT.glob("really/**/*.py"), *ROOT.glob("csrc/**/*.p*")]}
    assert not {name for name in modules - {"__init__.py"} if f"`{name}`" not in text}


def test_the_figure_is_what_its_script_draws(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", str(ROOT / "docs" / "figures.py"), str(tmp_path)], check=True)
    drawn, shown = ((folder / "architecture.svg").read_text() for folder in (tmp_path, ROOT / "docs"))
    wings = {path.parent.name for path in ROOT.glob("really/*/__init__.py")}
    labels, other = (re.findall(r"<!-- (.+) -->", text) for text in (drawn, shown))
    assert {"SampleManager", *wings} <= set(labels)
    order = [label for label in labels if label in wings]
    assert order == sorted(order, key=STEP_OF.__getitem__)
    assert labels == other
    by = re.search(r"Matplotlib v[\d.]+", shown)
    if by and by[0] in drawn:  # another version places the same texts slightly differently
        assert drawn == shown
