"""really.models: networks to start with, in Keras and in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from really import Agent, SampleManager
from really.errors import InvalidTypeError, InvalidValueError
from really.models import mlp, nature_cnn

OPTIONS: dict[str, Any] = {"num_steps": 5, "use_ray": False}


@pytest.fixture(params=["tensorflow", "torch"])
def framework(request: Any) -> str:
    pytest.importorskip(request.param)
    return request.param


def shapes(model: Any, framework: str, state: Any) -> dict[str, list[int]]:
    if framework == "torch":
        import torch

        state = torch.as_tensor(state)
    return {name: list(output.shape) for name, output in model(state).items()}


def test_the_mlp_collects_and_its_agent_learns(framework: str, tmp_path: Any) -> None:
    arguments = {"observation": 4, "outputs": {"q_values": 2, "v_estimate": 1}, "hidden": (8,), "framework": framework}
    with SampleManager(
        mlp, "CartPole-v1", 2, 10, model_kwargs=arguments, action_sampling_type="thompson", **OPTIONS
    ) as manager:
        assert manager.get_data()["state"].shape == (10, 4)
        manager.save_model(tmp_path, 0)
        expected = manager.get_agent().act(np.ones((3, 4), np.float32), greedy=True)
    model = {} if framework == "tensorflow" else {"model": mlp, "model_kwargs": arguments}
    assert Agent.load(tmp_path, **model).act(np.ones((3, 4), np.float32)).tolist() == expected.tolist()


def test_the_mlp_takes_spaces_and_gives_the_outputs_of_each_sampling_type(framework: str) -> None:
    outputs = {"mu": 3, "sigma": 3, "value_estimate": 1}
    model = mlp(spaces.Box(-1, 1, (2, 5)), outputs, (4, 4), "tanh", framework)
    assert shapes(model, framework, np.zeros((7, 2, 5), np.float32)) == {
        "mu": [7, 3],
        "sigma": [7, 3],
        "value_estimate": [7],
    }
    table = mlp(spaces.Discrete(6), 2, (4,), framework=framework)
    assert shapes(table, framework, np.arange(6)) == {"q_values": [6, 2]}
    with SampleManager(
        mlp, "Pendulum-v1", 1, 5, model_kwargs={"observation": 3, "outputs": {"mu": 1, "sigma": 1}}, **OPTIONS
    ) as manager:
        assert manager.get_data()["action"].shape == (5, 1)


def test_sigma_is_positive(framework: str) -> None:
    model = mlp(1, {"mu": 1, "sigma": 1}, (4,), framework=framework)
    state = np.linspace(-1e4, 1e4, 9, dtype=np.float32)[:, None]
    if framework == "torch":
        import torch

        state = torch.as_tensor(state)
    assert (
        float(np.asarray(model(state)["sigma"].detach() if framework == "torch" else model(state)["sigma"]).min()) > 0
    )


def test_the_nature_network_has_the_published_number_of_weights(framework: str) -> None:
    model = nature_cnn(18, framework=framework)
    assert shapes(model, framework, np.zeros((2, 4, 84, 84), np.uint8)) == {"q_values": [2, 18]}
    weights = model.parameters() if framework == "torch" else model.get_weights()
    # 8 x 8 x 4 x 32, 4 x 4 x 32 x 64, 3 x 3 x 64 x 64 and 7 x 7 x 64 x 512 with biases, and 512 x 18.
    assert sum(int(np.prod(each.shape)) for each in weights) == 8224 + 32832 + 36928 + 1606144 + 9234


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: mlp("4", 2), InvalidTypeError, "observation: expected a number, or a Box or Discrete space, got '4'"),
        (lambda: mlp(4, {}), InvalidValueError, "outputs: expected one output or more, got none"),
        (lambda: mlp(4, {"q_value": 2}), InvalidValueError, "outputs: expected one of .* Did you mean 'q_values'"),
        (lambda: mlp(4, {"v_estimate": 2}), InvalidValueError, r"outputs\['v_estimate'\]: expected 1, as a state has"),
        (lambda: mlp(4, 2, hidden=64), InvalidTypeError, r"hidden: expected the units .* got 64; write \(64,\)"),
        (lambda: mlp(4, 2, (0,)), InvalidValueError, "hidden: expected an integer >= 1, got 0"),
        (lambda: mlp(4, 2, activation="swish"), InvalidValueError, "activation: expected one of"),
        (lambda: mlp(4, 2, framework="jax"), InvalidValueError, "framework: expected one of"),
        (lambda: mlp(spaces.Discrete(3, start=1), 2), InvalidValueError, "expected a Discrete space from 0 on"),
        (lambda: nature_cnn(2, (84, 84)), InvalidValueError, r"observation: expected \(stack, height, width\) with"),
    ],
)
def test_arguments_that_are_none_are_told(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call()
