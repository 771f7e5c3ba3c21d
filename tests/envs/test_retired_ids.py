"""Ids whose version gymnasium has retired, and what of real gym fails on NumPy 2."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from really.envs.make import make_batch
from really.envs.real_gym import import_gym
from really.envs.sources import GymIdSource
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, InvalidValueError

gym = import_gym()


def stepped(spec: EnvironmentSpec, steps: int = 20) -> Any:
    batch = make_batch(spec, [np.random.SeedSequence(7)])
    batch.action_space.seed(0)
    batch.reset()
    for _ in range(steps):
        batch.step(np.asarray(batch.action_space.sample())[None])
    return batch


@pytest.mark.parametrize(
    ("retired", "taken", "config"),
    [
        ("LunarLanderContinuous-v2", "LunarLanderContinuous-v3", {}),
        ("LunarLander-v2", "LunarLander-v3", {"continuous": True}),
        ("LunarLander-v1", "LunarLander-v3", {}),
        ("CarRacing-v2", "CarRacing-v3", {"max_episode_steps": 50}),
        ("Pendulum-v0", "Pendulum-v1", {}),
        ("FrozenLake-v0", "FrozenLake-v1", {"is_slippery": False}),
    ],
)
def test_the_next_version_of_a_retired_id_is_taken_with_one_warning(retired, taken, config):
    spec = EnvironmentSpec(retired, config)
    with pytest.warns(UserWarning, match=rf"got '{retired}', which it has retired; the next .*, '{taken}', is") as seen:
        batch = stepped(spec)
    assert len(seen) == 1
    expected = stepped(EnvironmentSpec(taken, config))
    np.testing.assert_array_equal(batch.observations[0], expected.observations[0])
    assert spec.probe().max_episode_steps == EnvironmentSpec(taken, config).probe().max_episode_steps


@pytest.mark.parametrize(("retired", "taken"), [("HalfCheetah-v2", "HalfCheetah-v4"), ("Hopper-v1", "Hopper-v4")])
def test_an_id_that_only_tells_where_its_environment_has_gone_is_retired(retired, taken):
    with pytest.warns(UserWarning, match=rf"'{retired}', which it has retired; the next version, '{taken}'"):
        assert EnvironmentSpec(retired).source.name == taken


@pytest.mark.parametrize(
    ("name", "config"), [("LunarLander-v2", {}), ("CarRacing-v2", {"continuous": False}), ("Taxi-v3", {})]
)
def test_what_gym_can_run_is_taken_from_gym(name, config):
    spec = EnvironmentSpec(name, config)
    stepped(spec, 5)
    assert isinstance(spec.source, GymIdSource)


def test_an_id_without_a_later_version_is_refused():
    with pytest.raises(InvalidValueError, match="got 'CartPole-v7'"):
        EnvironmentSpec("CartPole-v7").probe()


def test_a_continuous_game_that_a_factory_makes_in_gym_tells_what_to_install():
    spec = EnvironmentSpec(lambda: gym.make("LunarLanderContinuous-v2"))
    message = r"Box2D games of gym 0\.26 fail on NumPy 2: pip install 'gymnasium\[box2d\]' and take its version"
    with pytest.raises(EnvironmentFailedError, match=message):
        stepped(spec)


@pytest.mark.parametrize("environment", [lambda: gym.make("CartPole-v1"), gym.make("CartPole-v1")])
def test_gyms_checker_does_not_stop_an_environment(environment):
    assert not np.array_equal(stepped(EnvironmentSpec(environment), 5).observations[0], np.zeros((1, 4)))


def test_an_error_of_gym_on_numpy_2_tells_what_to_change():
    class Checked(gym.Wrapper):
        def step(self, action):
            return gym.utils.passive_env_checker.env_step_passive_checker(self.env, action)

    with pytest.raises(EnvironmentFailedError, match=r"gym 0\.26 uses names that NumPy 2 no longer has: take the same"):
        stepped(EnvironmentSpec(lambda: Checked(gym.make("CartPole-v1"))), 1)
    assert "CartPole-v1" in gymnasium.registry
