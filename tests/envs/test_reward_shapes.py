"""Rewards of several numbers: delivered as a column `[n, k]` if asked for, and refused by what needs one number."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from really import EnvironmentFailedError, ReallyError, ReplayBuffer, SampleManager, atari
from really.errors import InvalidTypeError, InvalidValueError
from really.learners import DQNLearner
from really.replay.hindsight import Hindsight
from tests.environments import Counter, OldCounter
from tests.models import QNet


class Objectives(Counter):
    """The reward is (step number, minus the action)."""

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, _, *others = super().step(action)
        return observation, np.array([self.count, -action], np.float64), *others


class OldObjectives(OldCounter):
    """The API of four values; the reward is a list."""

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, dict]:
        observation, _, done, info = super().step(action)
        return observation, [self.count, -action], done, info


class MaskedObjectives(Objectives):
    """`info` allows action 1 alone."""

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        return super().reset(**options)[0], {"action_mask": np.array([0, 1], np.int8)}

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
        return *super().step(action)[:4], {"action_mask": np.array([0, 1], np.int8)}


class VectorObjectives(SyncVectorEnv):
    """A vector environment whose rewards are `[env, 2]`, as those of mo-gymnasium are."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([partial(Objectives, 4)] * num_envs, autoreset_mode="Disabled")
        self._rewards = np.zeros((num_envs, 2), np.float32)


def make(environment: Any, **changes: Any) -> SampleManager:
    given = {"num_parallel": 3, "total_steps": 60, "num_steps": 20, "use_ray": False, "reward_shape": (2,), **changes}
    return SampleManager(QNet, environment, **given)


def check_rewards(data: dict[str, np.ndarray]) -> None:
    assert data["reward"].dtype == np.float32
    np.testing.assert_array_equal(data["reward"], np.stack([data["state_new"][:, 0], -data["action"]], axis=1))


@pytest.mark.parametrize("environment", [Objectives, OldObjectives, MaskedObjectives, VectorObjectives])
def test_rewards_of_several_numbers_are_a_column(environment: Any) -> None:
    with make(environment) as manager:
        assert manager.info()["columns"]["reward"] == "float32[2]"
        data = manager.get_data()
        check_rewards(data)
        manager.initialize_buffer(100)
        assert manager.collect(40) >= 40
        check_rewards(manager.sample(30))


def test_any_shape_and_numbers_of_any_dtype_are_taken() -> None:
    class Grid(Counter):
        def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
            observation, _, *others = super().step(action)
            return observation, [[self.count, 2, True]], *others

    with make(Grid, reward_shape=[1, 3], num_episodes=1, num_steps=None, reward_scale=2.0) as manager:
        data = manager.get_data()
    assert data["reward"].shape == (len(data["action"]), 1, 3)
    np.testing.assert_array_equal(data["reward"][:, 0, 1:], np.tile([4, 2], (len(data["action"]), 1)))
    np.testing.assert_array_equal(data["reward"][:, 0, 0], 2 * data["state_new"][:, 0])


def test_a_shape_of_one_number_keeps_its_axis() -> None:
    class One(Counter):
        def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
            observation, _, *others = super().step(action)
            return observation, np.array([1.0]), *others

    with make(One, reward_shape=1) as manager:
        assert manager.get_data()["reward"].shape == (60, 1)
    with make(One, reward_shape=()) as manager:
        assert manager.get_data()["reward"].shape == (60,)


def test_returns_of_episodes_add_all_numbers_and_tests_keep_them_apart() -> None:
    with make(Objectives, env_config={"length": 4}) as manager:
        data = manager.get_data()
        episodes = manager.episodes
        rows = data["reward"].reshape(3, 5, 4, 2)  # of agents, episodes, steps
        np.testing.assert_allclose(episodes["return"], rows.sum((2, 3)).ravel())
        steps, rewards = manager.test(10, 2, "time_and_reward", do_print=True)
        assert steps == [4, 4]
        assert [sums[0] for sums in rewards] == [10.0, 10.0]
        assert all(len(sums) == 2 and sums[1] <= 0 for sums in rewards)


@pytest.mark.parametrize(
    "changes", [{"returns": ["monte_carlo"]}, {"returns": ["advantage"]}, {"normalize_rewards": 1}]
)
def test_what_needs_one_number_is_refused(changes: dict[str, Any]) -> None:
    if "normalize_rewards" in changes:
        changes = {"normalize_rewards": True}
    with pytest.raises(
        InvalidValueError, match=r"reward_shape: expected \(\) with .*, which takes one number as reward"
    ):
        make(Objectives, **changes)


def test_n_step_hindsight_and_learners_refuse_them() -> None:
    import tensorflow as tf

    with make(Objectives, returns=["episode_end"]) as manager:
        manager.initialize_buffer(100, ["state", "action", "reward", "state_new", "terminal", "episode_end"], n_step=2)
        with pytest.raises(
            InvalidValueError, match=r"n_step: key 'reward': expected float32 of shape \[\], got .* \[2\]"
        ):
            manager.store_in_buffer(manager.get_data())
        learner = DQNLearner(manager.get_agent(), tf.keras.optimizers.SGD(0.1), target_every=1, gamma=0.99)
        expected = r"column 'reward': expected one number for each row, shape \[60\] as .*, got \[60, 2\]; .*added up"
        with pytest.raises(InvalidValueError, match=expected):
            learner.update(manager.get_data())
    goals = {
        f"{state}.{goal}_goal": np.zeros((2, 1)) for state in ("state", "state_new") for goal in ("achieved", "desired")
    }
    buffer = ReplayBuffer(10, unit=Hindsight(zeros, k=1))
    with pytest.raises(InvalidValueError, match=r"hindsight: key 'reward': expected one number, got shape \[2\]"):
        buffer.put({**goals, "reward": np.zeros((2, 2)), "episode_end": np.ones(2, np.float32), "terminal": np.ones(2)})


def zeros(achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
    return np.zeros(len(achieved))


def test_another_shape_is_an_error_that_names_both() -> None:
    with pytest.raises(
        EnvironmentFailedError, match=r"expected an array of shape \(3,\), .* got an array of shape \(2,\)"
    ):
        make(Objectives, reward_shape=(3,)).get_data()
    with pytest.raises(
        EnvironmentFailedError, match=r"expected an array of shape \(2,\), .* got 0\.0|got 1\.0 \(float\)"
    ):
        make(Counter).get_data()
    with pytest.raises(
        EnvironmentFailedError, match=r"expected one number, .*; reward_shape=\(2,\) delivers such rewards"
    ):
        make(Objectives, reward_shape=()).get_data()
    with pytest.raises(EnvironmentFailedError, match=r"expected an array of shape \(2,\)"):
        make("CartPole-v1", num_parallel=8).get_data()
    with pytest.raises(
        InvalidValueError, match=r"reward_shape: expected \(\) for .*pong.*, whose rewards are one number"
    ):
        make(atari("pong"))


def test_a_shape_that_is_none_is_refused() -> None:
    for wrong in ("2", {2: 2}, 2.0, [True]):
        with pytest.raises(InvalidTypeError, match="reward_shape: expected"):
            make(Objectives, reward_shape=wrong)
    with pytest.raises(ReallyError, match="reward_shape: expected an integer >= 1, got 0"):
        make(Objectives, reward_shape=(0,))


def test_env_instance_gives_the_rewards_as_they_are() -> None:
    gymnasium.register("Objectives-v0", Objectives)
    try:
        with make("Objectives-v0") as manager:
            manager.env_instance.reset()
            np.testing.assert_array_equal(manager.env_instance.step(1)[1], [1, -1])
    finally:
        del gymnasium.registry["Objectives-v0"]
