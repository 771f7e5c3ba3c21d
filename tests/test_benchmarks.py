"""Every benchmark runs once, shortly, as in the first part of `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_benchmark_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "bench"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
