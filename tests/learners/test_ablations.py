"""Examples of hindsight and memory: their tasks, short runs of both variants, and what seeds learn."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.learners.test_learning import ROOT, run_example

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:gymnasium")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


def test_a_bit_flip_reaches_the_goal_once_all_bits_agree(example: Any) -> None:
    env = example("bit_flipping").BitFlipping(4)
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=2)
    wrong = np.flatnonzero(observation["achieved_goal"] != observation["desired_goal"])
    assert len(wrong) > 1
    steps = [env.step(action) for action in wrong]
    assert [reward for _, reward, *_ in steps] == [-1.0] * (len(wrong) - 1) + [0.0]
    assert [terminated for _, _, terminated, *_ in steps] == [False] * (len(wrong) - 1) + [True]
    np.testing.assert_array_equal(steps[-1][0]["achieved_goal"], steps[-1][0]["desired_goal"])


def test_the_sign_of_the_maze_is_seen_at_the_first_step_alone(example: Any) -> None:
    env = example("t_maze").TMaze(3)
    check_env(env, skip_render_check=True)
    for seed in range(4):
        first, _ = env.reset(seed=seed)
        corridor = [env.step(0) for _ in range(3)]
        assert first[0] in (-1, 1)
        assert [seen.tolist() for seen, *_ in corridor] == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
        _, reward, terminated, *_ = env.step(1)
        assert (reward, terminated) == (first[0], True)
    env.reset(seed=0)
    assert env.step(3)[1:4] == (-0.1, False, False)


SHORT = {
    "bit_flipping": {"total_steps": 240, "updates_a_call": 2, "batch_size": 8, "test_episodes": 3},
    "t_maze": {"total_steps": 320, "updates_a_call": 1, "batch_size": 4, "length": 5, "learn": 4, "burn_in": 2},
    "fetch_reach": {"total_steps": 200, "updates_a_call": 1, "batch_size": 8, "learning_starts": 200},
}


@pytest.mark.parametrize(
    ("name", "option"),
    [("bit_flipping", "hindsight"), ("t_maze", "memory"), ("t_maze", ""), ("fetch_reach", "hindsight")],
    ids=str,
)
def test_a_short_run_writes_its_result(name: str, option: str, example: Any, tmp_path: Path) -> None:
    if name == "fetch_reach":
        pytest.importorskip("gymnasium_robotics", reason="make test-ecosystem has it")
    module = example(name)
    without = {} if option else {"memory": False}
    settings = SHORT[name] | {"test_episodes": 3, "steps_a_test": SHORT[name]["total_steps"], "out": str(tmp_path)}
    module.main(module.Args(**settings, **without))
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"task", "seed", "success", "env_steps", "updates", "wall_seconds"}
    assert 0 <= result["success"] <= 1
    assert (result["env_steps"], result["updates"]) == (settings["total_steps"], settings["updates_a_call"])
    header, *rows = (tmp_path / "progress" / "progress.csv").read_text().splitlines()
    assert header.startswith("epoch,step,success.mean")
    assert len(rows) == 1


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("bit_flipping.py", 0.95, 1),
        ("bit_flipping.py --no-hindsight", 0, 0.02),
        ("t_maze.py", 0.95, 1),
        ("t_maze.py --no-memory", 0.4, 0.6),
        ("fetch_reach.py", 0.95, 1),
    ],
)
def test_every_seed_succeeds_as_often_as_its_variant_can(
    name: str, least: float, most: float, seed: int, tmp_path: Path
) -> None:
    script, *options = name.split()
    if script == "fetch_reach.py":
        pytest.importorskip("gymnasium_robotics", reason="make test-ecosystem has it")
    result, _ = run_example(script, seed, tmp_path, *options)
    assert least <= result["success"] <= most
