"""Episodes that ended: their returns and lengths against a plain loop, and the log of a manager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from really import SampleManager
from really._utils.array_pool import ArrayPool
from really.collectors.episodes import ENDED, EpisodeFigures, EpisodeLog, EpisodeMeter
from really.collectors.rollout import Rollout
from really.data.schema import ColumnSpec
from really.data.transitions import Columns
from really.errors import InvalidTypeError, InvalidValueError
from tests.environments import Counter
from tests.models import QNet

FLAG = ColumnSpec(np.dtype(np.bool_))
COLUMNS = {
    "state": ColumnSpec(np.dtype(np.float32)),
    "state_new": ColumnSpec(np.dtype(np.float32)),
    "action": ColumnSpec(np.dtype(np.int64)),
    "reward": ColumnSpec(np.dtype(np.float32)),
    "terminated": FLAG,
    "truncated": FLAG,
}


def episodes_of(data: Columns, open_episodes: dict[int, list[float]]) -> list[tuple[int, int, float, int]]:
    """(row, agent, return, length) of each episode that ends in delivered rows; open episodes are kept for later."""
    found = []
    for row, (agent, reward, goes_on) in enumerate(zip(data["agent"], data["reward"], data["not_done"], strict=True)):
        rewards = open_episodes.setdefault(int(agent), [])
        rewards.append(float(reward))
        if not goes_on:
            found.append((row, int(agent), sum(rewards), len(rewards)))
            rewards.clear()
    return found


def manager_of(**arguments: Any) -> SampleManager:
    given = {"use_ray": False, "returns": ["agent"], "epsilon": 0.5, "seed": 1}
    return SampleManager(QNet, Counter, 3, 40, **(given | arguments))


@given(
    st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3).filter(any), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_episodes_are_those_of_a_plain_loop(rounds: list[list[int]], seed: int) -> None:
    rng, meter, open_episodes = np.random.default_rng(seed), EpisodeMeter((4, 5, 6)), {}
    for lengths in rounds:
        rollout = Rollout(COLUMNS, 3, max(lengths) + 1, ArrayPool())
        rollout.lengths[:] = lengths
        for name in ("reward", "terminated", "truncated"):
            rows = rollout.arrays[name]
            rows[...] = rng.integers(-9, 9, rows.shape) if name == "reward" else rng.random(rows.shape) < 0.3
        done = rollout.flat("terminated") | rollout.flat("truncated")
        data = {"agent": np.repeat([4, 5, 6], lengths), "reward": rollout.flat("reward"), "not_done": ~done}
        assert meter.measure(rollout).tolist() == episodes_of(data, open_episodes)


def test_begin_forgets_open_episodes() -> None:
    meter, rollout = EpisodeMeter((0,)), Rollout(COLUMNS, 1, 2, ArrayPool())
    rollout.lengths[:], rollout.arrays["reward"][:], rollout.arrays["truncated"][:] = 2, 1, False
    rollout.arrays["terminated"][:] = [False, False]
    assert not meter.measure(rollout).size
    meter.begin()
    rollout.arrays["terminated"][:] = [False, True]
    assert meter.measure(rollout).tolist() == [(1, 0, 2.0, 2)]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("length", [{"num_steps": 7}, {"num_episodes": 2}])
def test_episodes_of_a_manager_are_those_in_its_rows(length: dict[str, int], num_workers: int) -> None:
    with manager_of(num_workers=num_workers, **length) as manager:
        open_episodes: dict[int, list[float]] = {}
        expected, steps = [], 0
        for _ in range(4):
            data = manager.get_data()
            ended = episodes_of(data, open_episodes)
            expected += [(total, length, agent, steps + row + 1) for row, agent, total, length in ended]
            steps += len(data["reward"])
        assert manager.episodes.tolist() == expected
        assert manager.steps == steps
        assert manager.episodes.length.tolist() == [10] * len(expected)
        figures = manager.info()["episodes"]
    assert figures["ended"] == figures["of_the_last"] == len(expected) > 3
    assert figures["mean_return"] == np.mean([total for total, *_ in expected])


def test_returns_are_the_environments_own_if_rewards_are_scaled() -> None:
    with manager_of(reward_scale=0.01, num_episodes=1, epsilon=1.0) as manager:
        data = manager.get_data()
        assert manager.episodes["return"].sum() == pytest.approx(100 * data["reward"].sum())


def test_episodes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with manager_of(num_steps=4) as manager:
        manager.get_data(do_print=True, total_steps=12)
        manager.get_data(do_print=True, total_steps=24)
        manager.initialize_buffer(100)
        rows = manager.collect(30, do_print=True)
        third = manager.episodes[3:]
    first, second, collected = capsys.readouterr().out.splitlines()
    assert first.startswith("collected 12 steps, mean reward 0.")
    assert first.endswith("; no episode ended")
    assert "; 3 episodes ended, mean return " in second
    assert second.endswith(", mean length 10.0")
    mean = third["return"].mean()
    assert collected == f"collected {rows} steps; {len(third)} episodes ended, mean return {mean:.2f}, mean length 10.0"


def test_a_number_of_rows_in_the_place_of_do_print_is_refused() -> None:
    with manager_of(num_steps=4) as manager:
        for number in (4000, 1, 0):
            told = rf"expected do_print=True or False, got {number}; .* is total_steps="
            with pytest.raises(InvalidTypeError, match=told):
                manager.get_data(number)  # type: ignore[arg-type]
        assert len(manager.get_data(False, 12)["reward"]) == 12


def test_the_bar_tells_of_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    with manager_of(num_episodes=1) as manager:
        manager.get_data(progress=True)
    assert "episodes ended, mean return " in capsys.readouterr().err


def test_background_collection_logs_episodes() -> None:
    with manager_of(num_episodes=1) as manager:
        manager.initialize_buffer(10_000)
        with manager.collect_in_background(max_rows=200) as background:
            manager.sample(8)
        assert manager.steps == background.rows >= 200
        assert len(manager.episodes) == background.rows // 10


def test_episodes_come_from_other_processes(ray_runtime: None) -> None:
    found = []
    for workers in (1, 2):
        with manager_of(use_ray=True, num_steps=7, num_workers=workers) as manager:
            manager.get_data(total_steps=150)
            found.append(manager.episodes.tolist())
    assert found[0] == found[1]
    assert len(found[0]) > 3


def test_the_aggregator_takes_returns_of_episodes_since_the_update_before(tmp_path: Any) -> None:
    with manager_of(num_steps=5) as manager:
        manager.get_data()
        before = len(manager.episodes)
        manager.initialize_aggregator(tmp_path, aggregator_keys=["loss", "episode_return", "episode_length"])
        manager.update_aggregator(loss=1.0)
        manager.get_data()
        manager.update_aggregator(loss=1.0)
        manager.update_aggregator(loss=1.0, episode_return=[-7.0])
        curves = manager.aggregator.curves
        returns = manager.episodes["return"][before:]
    assert curves["episode_return"].epochs == [2, 3]
    assert curves["episode_return"].means == [returns.mean(), -7.0]
    assert curves["episode_return"].spreads == [returns.std(), 0.0]
    assert curves["episode_length"].means == [10.0]


def test_no_episode_is_lost_to_the_aggregator(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with manager_of(num_steps=5) as manager:
        manager.initialize_aggregator(tmp_path, aggregator_keys=["episode_length"])
        log, nums = manager._episodes, []
        since = log.since

        def followed(count: int) -> Any:
            found = since(count)
            log.add(np.zeros(3, ENDED), 30)  # as the thread of background collection may at any moment
            nums.append(len(found[0]))
            return found

        monkeypatch.setattr(log, "since", followed)
        log.add(np.zeros(2, ENDED), 20)
        with pytest.raises(InvalidValueError, match="update_aggregator"):
            manager.update_aggregator(loss=1.0)
        manager.update_aggregator()
        manager.update_aggregator()
    assert nums == [2, 5, 3]


def test_the_log_keeps_the_last_episodes() -> None:
    log = EpisodeLog(kept=5)
    for number in range(4):
        ended = np.zeros(3, ENDED)
        ended["row"], ended["return"] = range(3), 3 * number + np.arange(3)
        log.add(ended, rows=10)
    assert log.last()["return"].tolist() == [7, 8, 9, 10, 11]
    assert log.last()["steps"].tolist() == [22, 23, 31, 32, 33]
    assert (log.count, log.steps) == (12, 40)
    for count, returns in ((10, [10, 11]), (12, []), (0, [7, 8, 9, 10, 11])):
        ended, num_ended = log.since(count)
        assert (ended["return"].tolist(), num_ended) == (returns, 12)
    assert not log.last(0).size


def test_figures_without_episodes_and_with_one() -> None:
    assert str(EpisodeFigures.of([])) == "no episode ended"
    assert np.isnan(EpisodeFigures.of([]).mean_return)
    ended = np.zeros(1, ENDED)
    ended["return"], ended["length"] = -2.5, 1500
    assert str(EpisodeFigures.of([ended])) == "1 episode ended, mean return -2.50, mean length 1500.0"
    assert EpisodeLog().info() == {"episodes": {"ended": 0}}
