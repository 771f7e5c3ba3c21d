"""The main job learns: the CartPole example end to end as a user runs it, one seed by default, five behind a marker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
KEYS = {"task", "seed", "env_steps", "updates", "mean_return", "std_return", "wall_seconds"}


def run_example(name: str, seed: int, out: Path) -> tuple[dict[str, Any], str]:
    """What the example leaves in `result.json`, and the last line that it prints."""
    command = [sys.executable, str(ROOT / "examples" / name), "--seed", str(seed), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "result.json").read_text()), done.stdout.splitlines()[-1]


def check_cartpole(seed: int, out: Path) -> None:
    result, last = run_example("dqn_cartpole.py", seed, out)
    assert set(result) == KEYS
    assert (result["task"], result["seed"]) == ("CartPole-v1", seed)
    assert result["mean_return"] >= 475
    assert result["updates"] > 0
    plot = Path(last.removeprefix("learning curve: "))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list((out / "models").glob("model_*/model.weights.h5"))


def test_dqn_learns_cartpole(tmp_path: Path) -> None:
    check_cartpole(0, tmp_path)


@pytest.mark.learning
@pytest.mark.parametrize("seed", range(5))
def test_dqn_learns_cartpole_with_every_seed(seed: int, tmp_path: Path) -> None:
    check_cartpole(seed, tmp_path)
