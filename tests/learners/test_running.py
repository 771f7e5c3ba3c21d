"""The example of continuous control at length: a short run on another task, and what a seed learns with MuJoCo."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.learners.test_learning import ROOT, run_example


def test_a_short_run_has_an_update_for_each_step_after_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = importlib.import_module("sac_half_cheetah")
    few = {"steps": 200, "steps_a_call": 20, "learning_starts": 100, "steps_a_test": 100, "batch_size": 8}
    example.main(example.Args(env="Pendulum-v1", **few, test_episodes=2, last_episodes=3, out=str(tmp_path)))
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["task"], result["env_steps"], result["updates"]) == ("Pendulum-v1", 200, 120)
    assert -2000 < result["mean_return"] < 0 < result["std_return"]
    header, *rows = (tmp_path / "progress" / "progress.csv").read_text().splitlines()
    assert header.startswith("epoch,step,reward.mean")
    assert [row.split(",")[1] for row in rows] == ["100", "200"]


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_the_cheetah_runs_after_a_tenth_of_the_steps(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="make cheetah has it")
    result, _ = run_example("sac_half_cheetah.py", seed, tmp_path, "--steps", "30000")
    assert result["mean_return"] > 1_000
