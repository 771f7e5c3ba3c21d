"""Action noise: drawn in pieces of bounded memory, with the numbers of whole blocks."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from really import EnvironmentFailedError, SampleManager
from really.collectors import noise
from really.collectors.noise import ActionNoise
from really.policies.policy import make_policy
from tests.environments import Counter, RaisingOnce
from tests.models import ActorCritic, Policy, QNet

RUNS = {
    "steps": (QNet, "CartPole-v1", {"num_steps": 300, "action_sampling_type": "thompson"}),
    "episodes": (Policy, functools.partial(Counter, length=30), {"num_episodes": 2}),
    "normal": (functools.partial(ActorCritic, dimensions=1), "Pendulum-v1", {"num_episodes": 1}),
}


def two_calls(model: Any, environment: Any, options: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    with SampleManager(model, environment, 3, 100, seed=4, use_ray=False, returns=["log_prob"], **options) as manager:
        return [manager.get_data(), manager.get_data()]


@pytest.mark.parametrize("steps_of_a_piece", [1, 7])
@pytest.mark.parametrize("name", RUNS)
def test_pieces_give_the_data_of_whole_blocks(monkeypatch: Any, name: str, steps_of_a_piece: int) -> None:
    whole = two_calls(*RUNS[name])
    monkeypatch.setattr(noise, "MAX_BYTES", 8 * 3 * steps_of_a_piece * (1 if name == "normal" else 2))
    for got, expected in zip(two_calls(*RUNS[name]), whole, strict=True):
        for column, values in expected.items():
            np.testing.assert_array_equal(got[column], values, err_msg=column)


def test_an_environment_that_fails_leaves_the_random_stream_where_whole_blocks_do(
    monkeypatch: Any, tmp_path: Any
) -> None:
    def second_order() -> np.ndarray:
        (tmp_path / "token").touch()
        environment = functools.partial(RaisingOnce, token=str(tmp_path / "token"))
        with SampleManager(Policy, environment, 1, 50, num_steps=50, seed=4, use_ray=False) as manager:
            with pytest.raises(EnvironmentFailedError):
                manager.get_data()
            return manager.get_data()["action"]

    whole = second_order()
    monkeypatch.setattr(noise, "MAX_BYTES", 0)
    np.testing.assert_array_equal(second_order(), whole)


def test_noise_for_many_actions_and_agents_takes_a_bounded_number_of_bytes() -> None:
    agents, actions = 32, 12_972
    policy = make_policy("thompson", spaces.Discrete(actions))
    outputs = {"q_values": np.zeros((agents, actions), np.float32)}
    everyone, remaining = np.arange(agents), np.full(agents, 10**6)
    tracemalloc.start()
    drawn = ActionNoise(policy, [np.random.default_rng(agent) for agent in range(agents)])
    for step in range(20):
        if drawn.starts_piece(step):
            start, sample = step, drawn.sampler(step, everyone, remaining)
        assert sample(outputs, step - start).shape == (agents,)
    drawn.settle()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
