"""Benchmarks and examples: every name that they import from really exists, and every benchmark runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("bench/**/*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("docs/*.py")])


def imported_names(source: str) -> set[tuple[str, str]]:
    """Pairs of module and name in every `from really... import name`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if node.module and node.module.split(".")[0] == "really"]
    return {(node.module, alias.name) for node in ours for alias in node.names}


@pytest.mark.parametrize("script", [str(path.relative_to(ROOT)) for path in SCRIPTS])
def test_imported_names_exist(script: str) -> None:
    """Benchmarks import private modules, which may move."""
    for module, name in imported_names((ROOT / script).read_text()):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.slow
def test_every_benchmark_runs() -> None:
    """Each runs once, shortly, as in the first part of `make bench`."""
    done = subprocess.run([sys.executable, "-m", "pytest", "bench"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.timeout(300)
def test_peers_that_are_not_there_or_do_not_work_are_told_and_the_rest_runs(tmp_path: Path) -> None:
    """rlox is installed without what it imports; cpprb need not be installed."""
    (tmp_path / "rlox").mkdir()
    (tmp_path / "rlox" / "__init__.py").write_text("import what_rlox_needs\n")
    command = [sys.executable, "-m", "bench.compare", "--workload", "cartpole 100k"]
    command += ["--only", "really", "cpprb", "rlox"]
    command += ["--rounds", "1", "--turn", "0.001", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "cartpole 100k: rlox does not work here: its process ended with the error above\n" in done.stdout
    assert "No module named 'what_rlox_needs'" in done.stderr
    if importlib.util.find_spec("cpprb") is None:
        assert "cartpole 100k: cpprb is not installed\n" in done.stdout
    for cell in ("sample 32", "put 1000", "put one"):
        assert re.search(rf"^cartpole 100k: {cell}: really: [\d.]+[kM]", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_commits_take_turns() -> None:
    """A commit against itself: each cell runs in three processes."""
    command = [sys.executable, "-m", "bench.turns", "HEAD", "HEAD", "--turns", "3", "--cells"]
    done = subprocess.run([*command, r"sampling\.Several|Lent"], cwd=ROOT, capture_output=True, text=True, check=True)
    measured = re.findall(r"^ +\d\.\d{3} \(control \d\.\d{3}\) +[\d.]+ us  sampling\.", done.stdout, re.MULTILINE)
    assert len(measured) >= 6
    assert re.search(r"^\d+ cells differ by more than 3 % and the control:$", done.stdout, re.MULTILINE)
