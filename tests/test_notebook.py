"""Notebooks: the tutorial runs as it stands; objects are tables, files are figures and films, cells run again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer, SampleManager
from really._utils.notebook import ShownFile
from really.errors import ClosedError
from really.manager import cells
from really.metrics.aggregator import Aggregator
from tests.environments import Counter

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorials" / "gridworld.ipynb"


def q_values(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def executed(source: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The cells of a notebook after a kernel of this Python has run them."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    client = nbclient.NotebookClient(
        nbformat.reads(json.dumps(source), as_version=4),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    cells: list[dict[str, Any]] = client.execute()["cells"]
    return cells


def texts(cell: dict[str, Any], name: str = "stdout") -> str:
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == name)


def shown(cell: dict[str, Any], kind: str) -> str:
    return "".join(output["data"].get(kind, "") for output in cell["outputs"] if "data" in output)


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = executed(json.loads(TUTORIAL.read_text()), tmp_path, monkeypatch)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert texts(code[0]).splitlines() == ["S.#..", "o.#..", ".....", "#.##.", "....G"]
    assert "<b>SampleManager</b>" in shown(code[2], "text/html")
    first, last = (float(part.rstrip(",")) for part in texts(code[3]).split() if part.rstrip(",").startswith("-"))
    assert last > first + 10
    assert shown(code[4], "image/png")
    assert texts(code[5]).splitlines() == ["-8.0 True", "8 steps"]
    assert "data:image/gif;base64," in shown(code[6], "text/html")


def notebook_of(*sources: str) -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "id": f"c{at}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for at, source in enumerate(sources)
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


MAKE = """
import numpy as np
from really import SampleManager
def model(state):
    return {"q_values": np.zeros((len(state), 2), np.float32)}
def made():
    how = {"num_steps": 5, "use_ray": False, "action_sampling_type": "thompson"}
    return SampleManager(model, "CartPole-v1", 1, 5, **how)
"""
SEVERAL = "managers = [made() for _ in range(2)]"
CLOSED = """
from really.errors import ReallyError
for manager in managers_before:
    try:
        manager.get_data()
    except ReallyError:
        print("closed")
"""


@pytest.mark.filterwarnings("ignore")
def test_a_cell_that_runs_again_closes_the_managers_that_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = "managers_before = managers\n"
    cells = executed(notebook_of(MAKE, SEVERAL, again, SEVERAL, CLOSED), tmp_path, monkeypatch)
    told = texts(cells[3], "stderr")
    assert texts(cells[1], "stderr") == ""
    assert told.count("the manager that this cell made before is closed, and its runners are free") == 2
    assert texts(cells[4]) == "closed\nclosed\n"


def test_a_cell_that_runs_again_opens_its_folder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cell(execution: int) -> SampleManager:
        monkeypatch.setattr(cells, "shell", lambda: SimpleNamespace(execution_count=execution))
        options = {"num_steps": 5, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
        manager = SampleManager(q_values, Counter, 1, 5, **options)
        manager.initialize_buffer(100, ["reward"], path=tmp_path / "buffer")
        manager.collect(5)
        return manager

    shown = {1: cell(1)}
    with cell(2) as manager:
        assert len(manager.buffer) == 10
        assert f"its buffer {tmp_path / 'buffer'} is closed" in caplog.text
        with pytest.raises(ClosedError):
            shown[1].buffer.sample(1)
    manager.buffer.close()


def test_manager_agent_and_buffer_are_tables(tmp_path: Path) -> None:
    options = {"num_steps": 5, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
    with SampleManager(q_values, Counter, 2, 10, **options) as manager:
        manager.initialize_buffer(100, ["reward"])
        manager.collect(10)
        table, agent, buffer = (each._repr_html_() for each in (manager, manager.get_agent(), manager.buffer))
    assert '<tr><th style="text-align:left">buffer</th><td style="text-align:left">10 of 100 rows</td></tr>' in table
    assert "epsilon_greedy" in agent
    assert "10 of 100" in buffer
    assert "&lt;" in ReplayBuffer(1, spec={"<b>": "float32"})._repr_html_()
    assert "0 of 3" in ReplayBuffer(3)._repr_html_()
    assert "<b>Agent</b>" in agent
    assert "times less" not in buffer


def test_the_aggregator_is_its_figure(tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss"])
    assert aggregator._repr_png_() is None
    aggregator.update(loss=1.0)
    assert aggregator._repr_png_().startswith(b"\x89PNG")
    assert aggregator.plot()._repr_html_().startswith('<img src="data:image/png;base64,')


def test_a_file_that_no_page_can_show_is_a_path(tmp_path: Path) -> None:
    for name, tag in (("film.mp4", "<video"), ("film.gif", "<img"), ("film.txt", None)):
        (tmp_path / name).write_bytes(b"film")
        found = ShownFile(tmp_path / name)
        assert (found._repr_html_() or "").startswith(tag or "") is True
        assert (found._repr_html_() is None) == (tag is None)
        assert found == tmp_path / name
    assert ShownFile(tmp_path / "missing.gif")._repr_html_() is None


def test_the_tutorial_has_no_outputs() -> None:
    cells = [cell for cell in json.loads(TUTORIAL.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
