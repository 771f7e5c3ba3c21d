"""The arguments of a manager: spellings, defaults, errors, and settings that may change between calls."""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
import numpy as np
import pytest

from really import SampleManager
from really._utils.checks import checked_integer, checked_number
from really.errors import InvalidTypeError, InvalidValueError
from really.manager.arguments import Settings, checked, same
from tests.models import QNet

BARE: dict[str, Any] = {
    **dict.fromkeys(
        ("action_sampling_type", "model_kwargs", "weights", "env_config", "num_episodes", "num_steps"),
    ),
    **dict.fromkeys(("remote_min_returns", "remote_time_out", "max_staleness", "seed", "num_workers", "device")),
    "num_parallel": 30,
    "total_steps": 100,
    "returns": (),
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "recurrent_state_every": 1,
    "vector": "auto",
    **dict.fromkeys(("normalize_observations", "normalize_rewards", "action_masks"), False),
    **dict.fromkeys(("observation_clip", "reward_clip", "resources", "runtime_env", "max_runner_memory")),
    "reward_shape": (),
    "num_gpus": 0,
    "use_ray": True,
    "reward_scale": 1.0,
    "temperature": 1.0,
    "epsilon": 0.95,
    "input_shape": None,
    "is_tf": True,
}


def test_the_length_of_a_result() -> None:
    assert (checked(BARE)["num_episodes"], checked(BARE)["num_steps"]) == (1, None)
    steps = checked({**BARE, "num_steps": np.int32(7)})
    assert (steps["num_episodes"], steps["num_steps"]) == (None, 7)


@pytest.mark.parametrize(
    ("agents", "seed", "given", "expected"),
    [(1, None, None, 1), (9, None, None, 1), (30, None, None, 3), (30, 0, None, 30), (30, 0, 2, 2), (5, None, 5, 5)],
)
def test_agents_to_wait_for(agents: int, seed: int | None, given: int | None, expected: int) -> None:
    arguments = {**BARE, "num_parallel": agents, "seed": seed, "remote_min_returns": given}
    assert checked(arguments)["remote_min_returns"] == expected


@pytest.mark.parametrize(
    ("returns", "expected"),
    [((), math.inf), (["value_estimate"], math.inf), (["log_prob"], 0), (["monte_carlo"], 0), (["advantage"], 0)],
)
def test_on_policy_returns_drop_stale_rows_by_default(returns: Any, expected: float) -> None:
    assert checked({**BARE, "returns": returns})["max_staleness"] == expected
    assert checked({**BARE, "returns": returns, "max_staleness": 3})["max_staleness"] == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (-math.inf, math.inf)),
        ({"normalize_rewards": True}, (-10.0, 10.0)),
        ({"normalize_rewards": True, "reward_clip": math.inf}, (-math.inf, math.inf)),
        ({"reward_clip": np.float32(2)}, (-2.0, 2.0)),
        ({"reward_clip": [0, math.inf]}, (0.0, math.inf)),
    ],
)
def test_the_bounds_of_clipped_rewards(changes: dict[str, Any], expected: tuple[float, float]) -> None:
    assert checked({**BARE, **changes})["reward_clip"] == expected


@pytest.mark.parametrize("name", ["env_config", "env_kwargs"])
def test_env_config_has_two_names(name: str) -> None:
    arguments = {**BARE, "env_kwargs": None, name: {"length": 3}}
    assert checked(arguments)["env_config"] == {"length": 3}
    assert "env_kwargs" not in checked(arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"env_config": {"a": 1}, "env_kwargs": {"a": 1}}, ValueError, "env_config and env_kwargs: .* got both"),
        ({"env_config": [1]}, TypeError, r"env_config: expected a dict or None, got \[1\] \(list\)"),
        ({"num_workers": 0}, ValueError, "num_workers: expected an integer >= 1, got 0"),
        ({"remote_time_out": math.inf}, ValueError, "remote_time_out: .* got inf"),
        ({"max_staleness": -1}, ValueError, "max_staleness: expected a finite number >= 0, got -1"),
        ({"max_staleness": "old"}, TypeError, "max_staleness: expected a finite number >= 0, got 'old'"),
        ({"gamma": "high"}, TypeError, r"gamma: expected a number from 0 to 1, got 'high' \(str\)"),
        ({"gae_lambda": 1.1}, ValueError, "gae_lambda: expected a number from 0 to 1, got 1.1"),
        ({"recurrent_state_every": 0}, ValueError, "recurrent_state_every: expected an integer from 1 to"),
        (
            {"recurrent_state_every": 2**63},
            ValueError,
            "recurrent_state_every: expected an integer from 1 to 2147483647",
        ),
        ({"recurrent_state_every": 4}, ValueError, "recurrent_state_every: expected 'recurrent_state' in returns, as"),
        ({"gae_lambda": 0.9}, ValueError, r"gae_lambda: expected 'advantage' in returns, .* got gae_lambda=0.9 with"),
        ({"vector": "nativ"}, ValueError, "vector: .* Did you mean 'native'"),
        ({"returns": "log_prob"}, TypeError, r"returns: expected a list of names, got 'log_prob' \(str\)"),
        ({"normalize_observations": "yes"}, TypeError, "normalize_observations: expected True or False, got 'yes'"),
        ({"use_ray": "no"}, TypeError, "use_ray: expected True or False, got 'no'"),
        ({"normalize_rewards": None}, TypeError, "normalize_rewards: expected True or False, got None"),
        ({"observation_clip": 5.0}, ValueError, "observation_clip: .*normalize_observations=True with it, got 5.0"),
        (
            {"normalize_observations": True, "observation_clip": 0},
            ValueError,
            "observation_clip: expected a number > 0, got 0",
        ),
        ({"reward_scale": 0}, ValueError, "reward_scale: expected a number > 0, got 0"),
        ({"reward_scale": -1}, ValueError, "reward_scale: expected a finite number >= 0, got -1"),
        ({"reward_scale": math.inf}, ValueError, "reward_scale: .* got inf"),
        ({"reward_clip": -1}, ValueError, r"reward_clip: .*number > 0 or a pair \(low, high\) .*, got -1"),
        ({"reward_clip": (1, 1)}, ValueError, r"reward_clip: .*low < high, got \(1, 1\)"),
        ({"reward_clip": math.nan}, ValueError, "reward_clip: .* got nan"),
        ({"reward_clip": (1, 2, 3)}, TypeError, r"reward_clip: .* got \(1, 2, 3\) \(tuple\)"),
        ({"reward_clip": True}, TypeError, r"reward_clip: .* got True \(bool\)"),
    ],
)
def test_invalid_arguments_raise(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checked({**BARE, **changes})


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_counts_of_any_integer_type(value: Any) -> None:
    count = checked_integer("n", value)
    assert (count, type(count)) == (3, int)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), "0.5", np.array(0.5)])
def test_numbers_of_any_type(value: Any) -> None:
    assert checked_number("x", value, 0, 1) == 0.5


def test_settings_between_calls() -> None:
    kwargs = Settings(checked(BARE))
    kwargs["epsilon"], kwargs["temperature"], kwargs["total_steps"] = 0, np.float32(2), np.int64(5)
    assert (kwargs["epsilon"], kwargs["temperature"], kwargs["total_steps"]) == (0.0, 2.0, 5)
    kwargs.update(model_kwargs={"a": 1})
    assert kwargs["model_kwargs"] == {"a": 1}
    for name, value in (("epsilon", -0.1), ("temperature", math.nan), ("total_steps", 0)):
        with pytest.raises(InvalidValueError, match=f"{name}: expected"):
            kwargs[name] = value
    with pytest.raises(InvalidTypeError, match="model_kwargs: expected a dict"):
        kwargs["model_kwargs"] = 3
    with pytest.raises(InvalidValueError, match=r"manager.kwargs, set between calls: .* got 'epsilonn'.*'epsilon'"):
        kwargs["epsilonn"] = 0.5
    with pytest.raises(InvalidValueError, match="got 'gamma'"):
        kwargs["gamma"] = 0.5
    with pytest.raises(InvalidValueError, match="'epsilon' cannot be removed, only changed"):
        del kwargs["epsilon"]
    assert kwargs["epsilon"] == 0.0


def test_model_kwargs_may_be_changed_in_place() -> None:
    with SampleManager(QNet, "CartPole-v1", 1, 10, num_steps=10, use_ray=False, model_kwargs={"hidden": 8}) as manager:
        assert manager.get_agent().get_weights()[0].shape == (4, 8)
        manager.kwargs["model_kwargs"]["hidden"] = 16
        assert len(manager.get_data()["reward"]) == 10
        assert manager.get_agent().get_weights()[0].shape == (4, 16)


def test_model_kwargs_may_add_weights_behind_unchanged_ones() -> None:
    """With a seed the first weights of both models are equal: runners must still receive the additional ones."""
    with SampleManager(QNet, "CartPole-v1", 1, 10, num_steps=10, use_ray=False, seed=1) as manager:
        manager.get_data()
        manager.kwargs["model_kwargs"] = {"value": True}
        assert len(manager.get_data()["reward"]) == 10
        assert manager.info()["policy_version"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": np.arange(3)}, {"a": np.arange(4)}),
        ({"a": np.arange(3)}, {"b": np.arange(3)}),
        ({"a": [np.arange(3), 1]}, {"a": [np.arange(3), 2]}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"a": "relu"}, {"a": None}),
    ],
)
def test_what_a_model_is_made_with_is_compared_whatever_it_is(one: Any, other: Any) -> None:
    assert same(one, copy.deepcopy(one))
    assert same(other, copy.deepcopy(other))
    assert not same(one, other)
    assert not same(other, one)


def test_model_kwargs_may_hold_arrays() -> None:
    given = {"bias": np.zeros(2)}
    with SampleManager(biased_net, "CartPole-v1", 1, 10, num_steps=10, use_ray=False, model_kwargs=given) as manager:
        agent = manager.agent
        assert manager.agent is agent
        manager.kwargs["model_kwargs"] = {"bias": np.ones(2)}
        np.testing.assert_array_equal(manager.get_agent().get_weights()[-1], [1, 1])


def biased_net(bias: np.ndarray) -> keras.Model:
    inputs = keras.Input((4,))
    values = keras.layers.Dense(2, bias_initializer=lambda shape, dtype: keras.ops.convert_to_tensor(bias, dtype))
    return keras.Model(inputs, {"q_values": values(inputs)})
