"""Recurrent models of PyTorch and JAX: modules act with their states as PyTorch has them, `[layers, n, hidden]`."""

from __future__ import annotations

import os

import numpy as np
import pytest

from really import SampleManager

OPTIONS = {"use_ray": False, "seed": 2, "num_steps": 12, "returns": ["recurrent_state", "truncated", "agent"]}


def follows_of(data):
    is_over = (data["terminal"][:-1] == 1) | (data["truncated"][:-1] == 1)
    return np.flatnonzero(~is_over & (data["agent"][:-1] == data["agent"][1:]))


def torch_memory(kind, layers=2):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.is_cell = kind.endswith("Cell")
            self.core = getattr(nn, kind)(4, 8, **({} if self.is_cell else {"num_layers": layers, "batch_first": True}))
            self.q = nn.Linear(8, 2)

        def forward(self, observation, recurrent_state=None):
            if self.is_cell:
                new = self.core(observation, recurrent_state)
                return {"q_values": self.q(new[0] if kind == "LSTMCell" else new), "recurrent_state": new}
            hidden, new = self.core(observation[:, None], recurrent_state)
            return {"q_values": self.q(hidden[:, 0]), "recurrent_state": new}

    torch.manual_seed(0)
    return Memory


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTMCell", "GRUCell"])
def test_modules_of_pytorch_act_with_their_states(kind):
    torch = pytest.importorskip("torch")
    with SampleManager(torch_memory(kind), "CartPole-v1", 3, 36, **OPTIONS) as manager:
        assert manager.info()["inference"] in ("torch", "onnx", "onnx_static", "numpy")
        assert "states" in manager.info()["inference_report"]["torch"]
        for _ in range(3):
            data = manager.get_data()
        agent = manager.get_agent()
        assert len(manager.test(20, 4)) == 4
    names = ["recurrent_state.0", "recurrent_state.1"] if "LSTM" in kind else ["recurrent_state"]
    assert list(agent.recurrent.columns) == names
    assert data[names[0]].shape == ((36, 8) if "Cell" in kind else (36, 2, 8))
    state = agent.recurrent_state({name: torch.as_tensor(data[name]) for name in names})
    with torch.no_grad():
        new = agent.model(torch.as_tensor(data["state"]), recurrent_state=state)["recurrent_state"]
    axis, follows = (0 if "Cell" in kind else 1), follows_of(data)
    for name, leaf in zip(names, new if "LSTM" in kind else (new,), strict=True):
        after = np.moveaxis(leaf.numpy(), axis, 0)
        np.testing.assert_allclose(data[name][follows + 1], after[follows], atol=1e-6)
    state = single = None
    for step in range(3):
        actions, state = agent.act(data["state"][step::12], recurrent_state=state, greedy=True)
        one, _ = agent.act(data["state"][step], recurrent_state=single, greedy=True)
        assert one == actions[0]
        single = [leaf[0] if axis == 0 else leaf[:, 0] for leaf in (state if "LSTM" in kind else [state])]
        single = tuple(single) if "LSTM" in kind else single[0]


def test_gradients_reach_the_weights_of_a_module_through_time():
    pytest.importorskip("torch")
    with SampleManager(torch_memory("LSTM"), "CartPole-v1", 3, 36, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
    state = agent.initial_state(3)
    for step in range(4):
        outputs = agent.outputs(data["state"][step::12], "q_values", "recurrent_state", recurrent_state=state)
        state = outputs["recurrent_state"]
    assert state[0].shape == (2, 3, 8)
    outputs["q_values"].sum().backward()
    assert all(parameter.grad is not None for parameter in agent.model.parameters())
    bound = agent.with_parameters(agent.parameters())
    found = bound.q_values(data["state"][:3], recurrent_state=agent.initial_state(3))
    expected = agent.q_values(data["state"][:3], recurrent_state=agent.initial_state(3))
    np.testing.assert_allclose(found.detach(), expected.detach())


def test_a_function_of_jax_acts_with_its_state():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def apply(parameters, observation, recurrent_state=None):
        before = jnp.zeros((len(observation), 8)) if recurrent_state is None else recurrent_state["h"]
        hidden = jnp.tanh(observation @ parameters["in"] + before @ parameters["back"])
        return {"q_values": hidden @ parameters["out"], "recurrent_state": {"h": hidden}}

    rng = np.random.default_rng(0)
    parameters = {"in": rng.normal(size=(4, 8)), "back": rng.normal(size=(8, 8)), "out": rng.normal(size=(8, 2))}
    parameters = {name: np.float32(value) for name, value in parameters.items()}
    with SampleManager((apply, parameters), "CartPole-v1", 3, 36, **OPTIONS) as manager:
        assert manager.info()["inference"] in ("jax", "numpy")
        data, agent = manager.get_data(), manager.get_agent()
    new = apply(parameters, data["state"], agent.recurrent_state(data))["recurrent_state"]["h"]
    follows = follows_of(data)
    np.testing.assert_allclose(data["recurrent_state.h"][follows + 1], new[follows], atol=1e-5)

    def loss(values):
        state = agent.initial_state(3)
        return agent.with_parameters(values).max_q(data["state"][:3], recurrent_state=state).sum()

    assert np.abs(jax.grad(loss)(parameters)["out"]).sum() > 0


def keras_memory():
    keras = pytest.importorskip("keras")

    class Memory(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell, self.drop, self.q = keras.layers.GRUCell(8), keras.layers.Dropout(0.5), keras.layers.Dense(2)

        def call(self, observation, recurrent_state=None, training=False):
            hidden, (new,) = self.cell(observation, [recurrent_state])
            return {"q_values": self.q(self.drop(hidden, training=training)), "recurrent_state": new}

        def initial_state(self, rows):
            return np.zeros((rows, 8), np.float32)

    return Memory


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") not in ("torch", "jax"), reason="needs KERAS_BACKEND=torch or jax")
# Variables of Keras 3.15 do not know how NumPy 2 copies.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_models_of_keras_act_with_their_states_on_each_backend():
    keras = pytest.importorskip("keras")
    with SampleManager(keras_memory(), "CartPole-v1", 3, 36, **OPTIONS) as manager:
        info = manager.info()
        assert (info["framework"], info["inference"]) == (f"keras_{keras.backend.backend()}", keras.backend.backend())
        for _ in range(2):
            manager.set_agent([weight / 2 for weight in manager.get_agent().get_weights()])
            data = manager.get_data()
        agent = manager.get_agent()
        assert len(manager.test(20, 2)) == 2
    outputs = agent.model(data["state"], recurrent_state=agent.recurrent_state(data), training=False)
    new = keras.ops.convert_to_numpy(outputs["recurrent_state"])
    follows = follows_of(data)
    np.testing.assert_allclose(data["recurrent_state"][follows + 1], new[follows], atol=1e-5)
    state = agent.initial_state(3)
    expected = keras.ops.convert_to_numpy(agent.max_q(data["state"][:3], recurrent_state=state))
    bound = agent.with_parameters([each * 1 for each in agent.parameters()])
    found = keras.ops.convert_to_numpy(bound.max_q(data["state"][:3], recurrent_state=state))
    np.testing.assert_allclose(found, expected, atol=1e-6)
