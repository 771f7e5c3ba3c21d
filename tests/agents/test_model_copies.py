"""Copies of model instances: the same outputs from variables of their own, and what acts is never the learner's."""

import pickle
import threading

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really import SampleManager
from really.agents.models import ModelBuilder
from really.agents.tensorflow.copying import copy_model
from really.errors import ModelError
from really.policies.model_state import ModelState, shared_variables
from tests import models

L = keras.layers
STATES = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
BOX = spaces.Box(-np.inf, np.inf, (4,))


class Settings:
    """An argument that Keras cannot write into a configuration."""


class Everything(keras.Model):
    """Layers in lists and dicts, variables of TensorFlow, functions that hold layers, an optimizer of its own."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.blocks = [L.Dense(8, activation="tanh"), {"second": L.Dense(8), "norm": L.BatchNormalization()}]
        self.scale, self.part = tf.Variable(2.0), tf.Module()
        self.part.shift = tf.Variable([1.0, -1.0])
        self.q = L.Dense(2)
        self.q.build((None, 8))  # a tf.function that is traced while weights are made keeps their first values
        self.head = lambda x: self.q(x) * self.scale
        self.compiled_head = tf.function(lambda x: self.head(x) + self.part.shift)
        self.guard = threading.Lock()
        self.compile(optimizer="adam", loss="mse")

    def call(self, x):
        for layer in (self.blocks[0], *self.blocks[1].values()):
            x = layer(x)
        return {"q_values": self.compiled_head(x)}


class PlainHeads:
    """No model of Keras, but it has some."""

    def __init__(self):
        self.actor = keras.Sequential([L.Input((4,)), L.Dense(2)])

    def __call__(self, x):
        return {"q_values": self.actor(x)}

    def get_weights(self):
        return self.actor.get_weights()

    def set_weights(self, weights):
        self.actor.set_weights(weights)


def everything():
    model = Everything(Settings())
    model(STATES)
    model.fit(STATES, {"q_values": np.ones((5, 2), np.float32)}, verbose=0)
    return model


def with_lambda():
    state = L.Input((4,))
    return keras.Model(state, {"q_values": L.Dense(2)(L.Lambda(lambda x: 2.0 * x)(state))})


def adapted():
    state, scale = L.Input((4,)), L.Normalization()
    model = keras.Model(state, {"q_values": L.Dense(2)(scale(state))})
    scale.adapt(3.0 * STATES + 1.0)
    return model


INSTANCES = {
    "subclass": models.QNet,
    "call in tf.function": models.DecoratedCall,
    "functional": models.functional,
    "lambda layer": with_lambda,
    "adapted layer": adapted,
    "lists, variables, functions, fitted": everything,
    "plain object": PlainHeads,
}


def outputs(model):
    return np.asarray(model(STATES)["q_values"])


@pytest.mark.parametrize("make", INSTANCES.values(), ids=INSTANCES)
@pytest.mark.parametrize("copied", [copy_model, lambda model: pickle.loads(cloudpickle.dumps(builder_of(model)))()[0]])
def test_a_copy_gives_the_same_and_shares_nothing(make, copied):
    model = make()
    before = outputs(model)
    twin = copied(model)
    assert type(twin) is type(model)
    np.testing.assert_allclose(outputs(twin), before, rtol=1e-6)
    assert not shared_variables(model, twin)
    state = ModelState(twin)
    state.set([weight + 1 for weight in state.get()])
    assert not np.allclose(outputs(twin), before)
    np.testing.assert_array_equal(outputs(model), before)


def builder_of(model):
    return ModelBuilder(model, {}, None, BOX)


def test_a_copied_model_can_be_fitted_and_its_optimizer_trains_its_own_variables():
    model = everything()
    twin = copy_model(model)
    before, twins = outputs(model), outputs(twin)
    twin.fit(STATES, {"q_values": np.full((5, 2), 9.0, np.float32)}, epochs=2, verbose=0)
    np.testing.assert_array_equal(outputs(model), before)
    assert not np.array_equal(outputs(twin), twins)


def test_what_cannot_be_copied_is_refused_where_the_copy_is_needed(tmp_path):
    model = models.Counting()
    with (tmp_path / "log").open("w") as file:
        model.log = file
        with pytest.raises(ModelError, match=r"model: expected one that can be copied, .* an instance of Counting"):
            SampleManager(model, "CartPole-v1", 1, 10, use_ray=False)


EXISTING = models.Counting()
MAKERS = {"instance": models.Counting(), "function": models.Counting, "same from a function": lambda: EXISTING}


@pytest.mark.parametrize("model", MAKERS.values(), ids=MAKERS)
def test_collecting_and_testing_leave_the_learners_model_alone(model):
    """Also if the model runs as Python: then this process acts with a copy of it."""
    with SampleManager(model, "CartPole-v1", 2, 20, num_steps=10, num_workers=2, use_ray=False) as manager:
        assert manager.info()["inference"] == "eager"
        agent = manager.get_agent()
        for verb in (manager.get_data, lambda: manager.test(5, 2)):
            for handed_over in (True, False):
                for variable in agent.model.trainable_variables:
                    variable.assign_add(tf.ones_like(variable))
                if handed_over:
                    manager.set_agent(agent.get_weights())
                trained, calls = agent.get_weights(), agent.model.calls
                verb()
                assert agent.model.calls == calls
                for got, expected in zip(agent.get_weights(), trained, strict=True):
                    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("model", [PlainHeads, PlainHeads()], ids=["class", "instance"])
def test_runners_act_with_a_part_that_was_replaced_by_hand(model):
    greedy = {"action_sampling_type": "epsilon_greedy", "epsilon": 0.0}
    with SampleManager(model, "CartPole-v1", 2, 20, num_steps=10, use_ray=False, **greedy) as manager:
        manager.get_data()
        for first in ("agent", "target"):
            agent, target = manager.get_agent(), manager.get_agent()
            before = np.asarray(target.max_q(STATES)) if first == "target" else target.get_weights()
            agent.max_q(STATES)
            agent.model.actor = keras.Sequential([L.Input((4,)), L.Dense(8, activation="tanh"), L.Dense(2)])
            manager.set_agent(agent.get_weights())
            data = manager.get_data()
            q = np.asarray(agent.model(data["state"])["q_values"])
            np.testing.assert_array_equal(q.argmax(1), data["action"])
            np.testing.assert_array_equal(agent.act(data["state"], greedy=True), data["action"])
            np.testing.assert_allclose(agent.max_q(data["state"]), q.max(1), rtol=1e-5)
            np.testing.assert_allclose(manager.get_agent().max_q(data["state"]), q.max(1), rtol=1e-5)
            if first == "target":
                np.testing.assert_array_equal(target.max_q(STATES), before)
            manager.test(3, 2)


class Part:
    """An object that is no layer and holds one."""

    def __init__(self):
        self.layer = L.Dense(4)


class Loose(keras.Model):
    """Overrides `__call__`, as scripts of the published API do. Keras lets its parts be replaced."""

    def __init__(self):
        super().__init__()
        self.part, self.actor, self.critic = Part(), L.Dense(4), L.Dense(1)
        self.blocks, self.heads, self.scale = [L.Dense(4)], {"q": L.Dense(2)}, tf.Variable([1.0])

    def __call__(self, x):
        hidden = self.blocks[0](self.actor(self.part.layer(x)))
        return {"q_values": self.heads["q"](hidden) * self.scale, "v_estimate": self.critic(hidden)}


REPLACE = {
    "attribute": lambda model: setattr(model, "actor", L.Dense(4)),
    "item": lambda model: model.blocks.__setitem__(0, L.Dense(4)),
    "item of a dict": lambda model: model.heads.__setitem__("q", L.Dense(2)),
    "attribute of a part": lambda model: setattr(model.part, "layer", L.Dense(4)),
    "variable": lambda model: setattr(model, "scale", model.scale * 0 + tf.random.normal([1])),
}


@pytest.mark.parametrize("kind", ["lent", "own", "copy"])
def test_methods_use_a_part_that_was_just_replaced(kind):
    """Also between two `set_agent`: what was compiled for the old part is not used again."""
    with SampleManager(Loose, "CartPole-v1", 1, 10, use_ray=False, action_sampling_type="thompson") as manager:
        lent = manager.get_agent()
        agent = {"lent": lent, "own": manager.agent, "copy": lent.copy()}[kind]
        assert agent.compiled
        compare(agent)
        for place, replace in REPLACE.items():
            before = agent.max_q(STATES).numpy()
            replace(agent.model)
            compare(agent)
            assert agent.compiled
            assert not np.allclose(agent.max_q(STATES), before), place


def compare(agent):
    """Asserts that all methods give what the model gives at this moment."""
    outputs = {name: np.asarray(value) for name, value in agent.model(STATES).items()}
    q, actions = outputs["q_values"], np.arange(len(STATES)) % 2
    log_probs = q - np.log(np.exp(q).sum(1, keepdims=True))
    rows = np.arange(len(STATES))
    np.testing.assert_allclose(agent.max_q(STATES), q.max(1), rtol=1e-5)
    np.testing.assert_allclose(agent.q_val(STATES, actions), q[rows, actions], rtol=1e-5)
    np.testing.assert_allclose(agent.v(STATES), outputs["v_estimate"].ravel(), rtol=1e-5)
    np.testing.assert_allclose(agent.flowing_log_prob(STATES, actions), log_probs[rows, actions], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(agent.act(STATES, greedy=True), q.argmax(1))


def test_a_log_that_grows_is_no_part_and_compiles_nothing_anew():
    with SampleManager(Loose, "CartPole-v1", 1, 10, use_ray=False, action_sampling_type="thompson") as manager:
        agent = manager.get_agent()
        agent.model.part.log = [Settings()]
        agent.max_q(STATES)
        compiled = dict(agent.network.functions)
        for _ in range(2):
            agent.model.part.log.append(Settings())
            agent.max_q(STATES)
        assert compiled
        assert agent.network.functions == compiled
