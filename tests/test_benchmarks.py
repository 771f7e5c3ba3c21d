"""Benchmarks and examples: every name that they import from really exists, and every benchmark runs."""

from __future__ import annotations

import ast
import importlib
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_commits_take_turns() -> None:
    """A commit against itself: each cell runs in three processes."""
    command = [sys.executable, "-m", "bench.turns", "HEAD", "HEAD", "--turns", "3", "--cells"]
    done = subprocess.run([*command, r"sampling\.Several|Lent"], cwd=ROOT, capture_output=True, text=True, check=True)
    measured = re.findall(r"^ +\d\.\d{3} \(control \d\.\d{3}\) +[\d.]+ us  sampling\.", done.stdout, re.MULTILINE)
    assert len(measured) >= 6
    assert re.search(r"^\d+ cells differ by more than 3 % and the control:$", done.stdout, re.MULTILINE)
