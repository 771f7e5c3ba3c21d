"""Environments and models that do not fit are told what they have to be."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really import SampleManager
from really.errors import EnvironmentFailedError, InvalidTypeError, ModelError


def q_values(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def manager_of(environment: Any, model: Any = q_values) -> SampleManager:
    return SampleManager(model, environment, 2, 10, num_steps=5, use_ray=False, action_sampling_type="epsilon_greedy")


class OfReward(gymnasium.Env[Any, Any]):
    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def __init__(self, reward: Any) -> None:
        self.reward = reward

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), self.reward, False, False, {}


@pytest.mark.parametrize("reward", [np.ones(1), np.ones((1, 1)), [1.0]])
def test_a_reward_with_an_axis_of_one_is_that_number(reward: Any) -> None:
    with manager_of(OfReward(reward)) as manager:
        assert manager.get_data()["reward"].tolist() == [1] * 10


def test_a_reward_of_several_numbers_is_told() -> None:
    told = r"step: TypeError: reward: expected one number, got an array of shape \(2,\)"
    with pytest.raises(EnvironmentFailedError, match=told), manager_of(OfReward(np.ones(2))) as manager:
        manager.get_data()


class Vectorised:
    """Has the methods of a VecEnv of Stable-Baselines3."""

    num_envs = 3
    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def reset(self) -> Any: ...
    def step(self, actions: Any) -> Any: ...
    def step_async(self, actions: Any) -> Any: ...
    def step_wait(self) -> Any: ...
    def env_method(self, name: str) -> Any: ...


VECTORISED = (
    r"environment: expected the id, class or factory of a single environment, got {}, a vectorised environment of "
    r"Stable-Baselines3; give the function that makes one of its environments, with num_parallel={}$"
)


@pytest.mark.parametrize("environment", [Vectorised(), Vectorised, lambda: Vectorised()])
def test_a_vectorised_environment_of_sb3_is_told(environment: Any) -> None:
    with pytest.raises(InvalidTypeError, match=VECTORISED.format("Vectorised", 3)):
        manager_of(environment)


def test_a_real_vectorised_environment_of_sb3_is_told() -> None:
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    environment = vec_env.DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    with pytest.raises(InvalidTypeError, match=VECTORISED.format("DummyVecEnv", 2)):
        manager_of(environment)
    with pytest.raises(InvalidTypeError, match=VECTORISED.format("DummyVecEnv", "n")):
        manager_of(vec_env.DummyVecEnv)


def test_a_dense_layer_on_a_discrete_observation_is_told_of_one_hot_codes() -> None:
    def model() -> Any:
        state = tf.keras.Input((16,))
        return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(4)(state)})

    told = r"an observation of Discrete\(16\) is a number and not a row of numbers: .* as tf\.one_hot\(state, 16\) or "
    with pytest.raises(ModelError, match=told):
        manager_of("FrozenLake-v1", model)


class OfNoWeights:
    def __call__(self, state: Any) -> Any:
        return q_values(state)


class OfSetWeights(OfNoWeights):
    def set_weights(self, weights: Any) -> None: ...


class OfGetWeights(OfNoWeights):
    def get_weights(self) -> Any:
        return [np.zeros(3)]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (OfSetWeights(), r"^weights: expected none, as OfSetWeights is a callable without get_weights, got 1 arrays$"),
        (
            OfGetWeights(),
            r"^weights: expected none, as OfGetWeights is a callable without set_weights, got 1 arrays$",
        ),
    ],
)
def test_a_callable_with_one_of_both_methods_is_told_of_the_other(model: Any, told: str) -> None:
    with manager_of(OfReward(1.0), model) as manager:
        assert len(manager.get_data()["reward"]) == 10
        with pytest.raises(ModelError, match=told):
            manager.set_agent([np.zeros(3)])
        assert len(manager.get_data()["reward"]) == 10


def test_a_callable_without_get_weights_takes_no_weights() -> None:
    with manager_of(OfReward(1.0), OfNoWeights()) as manager:
        assert manager.get_agent().get_weights() == []
        manager.set_agent([])
        told = r"^weights: expected none, as OfNoWeights is a callable without get_weights and set_weights, got "
        for given, got in (([np.zeros(3)], "1 arrays"), (None, "NoneType"), (3, "int"), (iter([]), "list_iterator")):
            with pytest.raises(ModelError, match=f"{told}{got}$"):
                manager.set_agent(given)
        assert len(manager.get_data()["reward"]) == 10
