"""Tensors of PyTorch in a buffer: those that NumPy takes are put, the others are told what to do."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from really import ReplayBuffer, SampleManager
from really.errors import EnvironmentFailedError, InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")


def test_tensors_with_gradients_and_of_bfloat16_are_told() -> None:
    buffer = ReplayBuffer(8)
    for tensor, told in (
        (torch.zeros(2, 3, requires_grad=True), r"got one that requires it; give tensor\.detach\(\)$"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), r"got torch\.bfloat16; give tensor\.float\(\)$"),
    ):
        for given in (tensor, list(tensor)):
            with pytest.raises(InvalidValueError, match=rf"^put: key 'state': expected a tensor .*{told}"):
                buffer.put({"state": given})
    buffer.put({"state": torch.ones(2, 3, requires_grad=True).detach()})
    assert buffer.take([0])["state"].tolist() == [[1, 1, 1]]


class OfTensors(gymnasium.Env[Any, Any]):
    """Observes and rewards by tensors, which have a gradient where `observes` or `rewards` say so."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, observes: Any = False, rewards: Any = False, dtype: Any = torch.float32) -> None:
        self.observation = torch.zeros(2, requires_grad=observes, dtype=dtype)
        self.reward = torch.tensor(1.0, requires_grad=rewards)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.observation, {}

    def step(self, action: Any) -> Any:
        return self.observation, self.reward, False, False, {}


def model(state: Any) -> Any:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def rewards_of(**how: Any) -> list[float]:
    fixed = {"use_ray": False, "action_sampling_type": "thompson", "env_config": how, "num_steps": 5}
    with SampleManager(model, OfTensors, 2, 10, **fixed) as manager:
        return list(manager.get_data()["reward"])


def test_an_environment_may_return_tensors_without_gradients() -> None:
    assert rewards_of() == [1] * 10
    with pytest.raises(InvalidTypeError, match=r"^observation: expected a tensor without a gradient"):
        rewards_of(observes=True)
    with pytest.raises(InvalidTypeError, match=r"^observation: expected a tensor of a dtype that NumPy has"):
        rewards_of(dtype=torch.bfloat16)
    with pytest.raises(EnvironmentFailedError, match=r"step: InvalidTypeError: reward: expected a tensor without"):
        rewards_of(rewards=True)
