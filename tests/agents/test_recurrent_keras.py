"""Recurrent models of Keras: cells and layers act through LiteRT, learn, and are copied and saved as others are."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from really import ModelError, SampleManager
from really.learners import DQNLearner
from really.policies.inference import load
from tests.environments import Counter

L = keras.layers
UNITS = 8


class Memory(keras.Model):
    """A cell, or a layer that gets one step, between observations and q-values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        is_layer = kind in ("LSTM", "GRU")
        self.core = getattr(L, kind)(UNITS, **({"return_state": True} if is_layer else {}))
        self.is_layer, self.parts = is_layer, 2 if "LSTM" in kind else 1
        self.q = L.Dense(2)

    def initial_state(self, batch_size: int) -> list[np.ndarray]:
        return [np.zeros((batch_size, UNITS), np.float32) for _ in range(self.parts)]

    def call(self, observation: Any, recurrent_state: Any) -> dict[str, Any]:
        if self.is_layer:
            hidden, *new = self.core(observation[:, None], initial_state=recurrent_state)
        else:
            hidden, new = self.core(observation, recurrent_state)
        return {"q_values": self.q(hidden), "recurrent_state": new}


class Zeros(keras.Model):
    """Begins without a state, in a decorated call."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.q = L.GRU(UNITS, return_state=True), L.Dense(2)

    @tf.function
    def call(self, observation: Any, recurrent_state: Any = None) -> dict[str, Any]:
        hidden, new = self.core(observation[:, None], initial_state=recurrent_state)
        return {"q_values": self.q(hidden), "recurrent_state": new}


def manager_of(model: Any, **options: Any) -> SampleManager:
    given = {
        "num_steps": 12,
        "use_ray": False,
        "seed": 1,
        "returns": ["recurrent_state", "truncated", "agent"],
        **options,
    }
    return SampleManager(model, Counter, 3, 36, **given)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "LSTM", "GRU"])
def test_cells_and_layers_act_through_litert_and_agree(kind):
    with manager_of(Memory, model_kwargs={"kind": kind}) as manager:
        assert manager.info()["inference"] == "litert"
        data, agent = manager.get_data(), manager.get_agent()
        exported = manager._current.exported.exported
    assert getattr(agent.model.core, "unroll", False) is False
    names = agent.recurrent.names
    assert names == tuple(f"recurrent_state.{part}" for part in range(agent.model.parts))
    state = agent.recurrent_state(data)
    own = agent.model(data["state"], recurrent_state=state)
    follows = np.flatnonzero((data["terminal"][:-1] == 0) & (data["agent"][:-1] == data["agent"][1:]))
    for name, new in zip(names, own["recurrent_state"], strict=True):
        np.testing.assert_allclose(data[name][follows + 1], new.numpy()[follows], atol=1e-6)
    forward = load(exported, 36)
    forward.set_weights(agent.get_weights())
    leaves = [data["state"], *(data[name] for name in names)]
    np.testing.assert_allclose(forward(leaves)["q_values"], own["q_values"], atol=1e-6)


def test_gradients_reach_the_weights_through_time_and_learners_of_single_steps_refuse_the_model():
    with manager_of(Zeros) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        with pytest.raises(ModelError, match="DQNLearner: expected a model without a recurrent state"):
            DQNLearner(manager, keras.optimizers.Adam(), target_every=10)
    state = agent.initial_state(3)
    with tf.GradientTape() as tape:
        for step in range(4):
            outputs = agent.outputs(data["state"][step::12], "q_values", "recurrent_state", recurrent_state=state)
            state = outputs["recurrent_state"]
        loss = tf.reduce_sum(outputs["q_values"])
    gradients = tape.gradient(loss, agent.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    state = [data["recurrent_state"][4::12]]
    q_values = agent.q_values(data["state"][4::12], recurrent_state=state[0])
    expected = agent.model(data["state"][4::12], recurrent_state=tf.constant(state[0]))["q_values"]
    np.testing.assert_allclose(q_values, expected, atol=1e-6)
    np.testing.assert_allclose(agent.max_q(data["state"][4::12], recurrent_state=state[0]), tf.reduce_max(q_values, 1))


def test_recurrent_models_are_saved_loaded_and_copied(tmp_path):
    with manager_of(Memory, model_kwargs={"kind": "GRUCell"}) as manager:
        before = manager.get_agent().get_weights()
        manager.save_model(str(tmp_path), 0)
        manager.set_agent([weight + 1 for weight in before])
        agent = manager.load_model(str(tmp_path)).copy()
        for one, other in zip(agent.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
        assert agent.act(np.zeros((2, 1), np.float32))[1][0].shape == (2, UNITS)
