"""Keras 2 as the `tf.keras` of a script: models, agents, copies, saved models, checkpoints, runners.

`make test-keras2` runs these tests in an environment of their own, in which TF_USE_LEGACY_KERAS is 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from really import SampleManager
from really.errors import InvalidValueError, ModelError

pytestmark = [
    pytest.mark.keras2,
    pytest.mark.skipif(os.environ.get("TF_USE_LEGACY_KERAS") != "1", reason="tf.keras is Keras 3: make test-keras2"),
]
L = tf.keras.layers
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


class Subclass(tf.keras.Model):
    """`call`, a variable that is an attribute, and a running mean that acting does not change."""

    def __init__(self, num_actions: int = 2) -> None:
        super().__init__()
        self.hidden, self.norm = L.Dense(16, activation="relu"), L.BatchNormalization()
        self.q, self.v = L.Dense(num_actions), L.Dense(1)
        self.scale = tf.Variable(1.0, name="scale")

    def call(self, state: Any) -> dict[str, Any]:
        hidden = self.norm(self.hidden(state))
        return {"q_values": self.scale * self.q(hidden), "v_estimate": self.v(hidden)}


class OwnCall(tf.keras.Model):
    """Overrides `__call__` under a decorator, as scripts of the published API do."""

    def __init__(self, num_actions: int = 2) -> None:
        super().__init__()
        self.hidden, self.q = [L.Dense(8, activation="tanh"), L.Dense(8, activation="tanh")], L.Dense(num_actions)

    @tf.function
    def __call__(self, state: Any) -> dict[str, Any]:
        for layer in self.hidden:
            state = layer(state)
        return {"q_values": self.q(state)}


class Doubled(L.Layer):
    """A layer of the user's in a functional model."""

    def call(self, x: Any) -> Any:
        return 2 * x


def functional() -> Any:
    state = tf.keras.Input((4,))
    hidden = Doubled()(L.Dense(8, activation="tanh")(state))
    return tf.keras.Model(state, {"q_values": L.Dense(2)(hidden), "v_estimate": L.Dense(1)(hidden)})


class Compiled(Subclass):
    """Compiled and fitted inside of the class."""

    def __init__(self) -> None:
        super().__init__()
        self(np.zeros((1, 4), np.float32))
        self.compile(optimizer=tf.keras.optimizers.Adam(0.01), loss={"q_values": "mse"})

    def learn(self, states: np.ndarray, values: np.ndarray) -> None:
        self.fit(states, {"q_values": values}, epochs=2, verbose=0)


MODELS: dict[str, Callable[[], Any]] = {
    "subclass": lambda: Subclass,
    "own call": lambda: OwnCall,
    "functional": lambda: functional,
    "functional instance": functional,
    "subclass instance": Subclass,
    "compiled": lambda: Compiled,
}


def small(model: Any, **changes: Any) -> SampleManager:
    given = {"num_parallel": 2, "total_steps": 40, "num_steps": 20, "use_ray": False, "seed": 0, "epsilon": 0.0}
    return SampleManager(model, "CartPole-v1", action_sampling_type="epsilon_greedy", **{**given, **changes})


@pytest.fixture(params=MODELS)
def manager(request: pytest.FixtureRequest) -> Iterator[SampleManager]:
    with small(MODELS[request.param]()) as made:
        yield made


def train(agent: Any, optimizer: Any) -> float:
    variables = agent.model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((agent.q_val(STATES, np.zeros(16, np.int64)) - 5.0) ** 2)
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return float(loss)


def assert_acts_as_the_agent(manager: SampleManager) -> None:
    """Runners take the actions that the agent would take."""
    rows = manager.get_data()
    np.testing.assert_array_equal(rows["action"], manager.get_agent().act(rows["state"], greedy=True))


def test_keras_2_is_the_keras_of_these_tests() -> None:
    assert tf.keras.Model.__mro__[0].__module__.startswith("tf_keras")


def test_runners_act_with_what_is_trained(manager: SampleManager) -> None:
    assert manager.info()["inference"].startswith("litert")
    agent, optimizer = manager.get_agent(), tf.keras.optimizers.Adam(0.05)
    losses = []
    for _ in range(5):
        assert_acts_as_the_agent(manager)
        losses.append(train(agent, optimizer))
        manager.set_agent(agent.get_weights())
    assert losses[-1] < losses[0]
    assert agent.compiled
    assert len(agent.get_weights()) == len(agent.model.get_weights())
    assert len(manager.test(20, 2)) == 2
    assert agent.max_q(STATES).dtype == agent.v(STATES).dtype == tf.float32


def test_a_copy_has_variables_of_its_own(manager: SampleManager) -> None:
    agent = manager.get_agent()
    target = agent.copy()
    before = target.q_val(STATES, np.zeros(16, np.int64)).numpy()
    np.testing.assert_allclose(before, agent.q_val(STATES, np.zeros(16, np.int64)), rtol=1e-5)
    train(agent, tf.keras.optimizers.SGD(0.1))
    np.testing.assert_array_equal(target.q_val(STATES, np.zeros(16, np.int64)), before)
    assert not np.allclose(agent.q_val(STATES, np.zeros(16, np.int64)), before)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_loaded_into_another_manager(name: str, tmp_path: Path) -> None:
    with small(MODELS[name]()) as manager:
        agent = manager.get_agent()
        train(agent, tf.keras.optimizers.SGD(0.1))
        manager.save_model(tmp_path, epoch=3)
        values = agent.max_q(STATES).numpy()
    with small(MODELS[name](), seed=1) as other:
        assert not np.allclose(other.get_agent().max_q(STATES), values)
        agent, epoch = other.load_model(tmp_path)
        assert epoch == 3
        np.testing.assert_allclose(agent.max_q(STATES), values, rtol=1e-5)
        assert_acts_as_the_agent(other)
    with small(OwnCall if name != "own call" else Subclass) as another, pytest.raises(ModelError, match="weights"):
        another.load_model(tmp_path)


def test_a_run_resumes_with_its_optimizer(tmp_path: Path) -> None:
    given = {"path": tmp_path / "run"}
    with small(Subclass) as manager:
        agent, optimizer = manager.get_agent(), tf.keras.optimizers.Adam(0.02)
        train(agent, optimizer)
        manager.save_checkpoint(**given, optimizer=optimizer, target=agent.copy())
        expected = [train(agent, optimizer) for _ in range(3)]
    with small(Subclass, seed=1) as other:
        optimizer = tf.keras.optimizers.Adam(0.5)
        agent = other.get_agent()
        other.load_checkpoint(**given, optimizer=optimizer, target=agent.copy())
        np.testing.assert_allclose([train(agent, optimizer) for _ in range(3)], expected, rtol=1e-4)


def test_a_learner_takes_an_optimizer_of_keras_2() -> None:
    from really.learners import DQNLearner

    with small(OwnCall) as manager:
        learner = DQNLearner(manager, tf.keras.optimizers.Adam(0.01), target_every=2)
        rows = manager.get_data()
        losses = [float(learner.update(rows).loss) for _ in range(4)]
        assert np.isfinite(losses).all()
        assert learner.updates_done == 4


class ActorCritic(tf.keras.Model):
    """Logits of two actions, or a normal of one, and a value."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.hidden, self.v = L.Dense(16, activation="tanh"), L.Dense(1)
        self.heads = {"policy": L.Dense(2)} if output == "policy" else {"mu": L.Dense(1), "sigma": L.Dense(1)}

    def call(self, state: Any) -> dict[str, Any]:
        hidden = self.hidden(state)
        found = {name: head(hidden) for name, head in self.heads.items()} | {"v_estimate": self.v(hidden)}
        return found | ({"sigma": tf.nn.softplus(found["sigma"])} if "sigma" in found else {})


@pytest.mark.parametrize("output", ["policy", "mu"])
@pytest.mark.parametrize("kind", ["PPOLearner", "A2CLearner"])
@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
def test_policy_learners_train_with_an_optimizer_of_keras_2(kind: str, output: str, optimizer: str) -> None:
    """Each learner has an optimizer of its own. The value approaches the returns; runners act with what is trained."""
    from really import learners

    environment, sampling = ("CartPole-v1", "discrete_policy") if output == "policy" else ("Pendulum-v1", None)
    options: dict[str, Any] = {"epochs": 5, "minibatch_size": 20, "seed": 0} if kind == "PPOLearner" else {}
    returns = ["log_prob", "value_estimate", "advantage"]
    given = {"num_parallel": 2, "total_steps": 40, "num_steps": 20, "use_ray": False, "seed": 0, "returns": returns}
    with SampleManager(
        ActorCritic,
        environment,
        model_kwargs={"output": output},
        action_sampling_type=sampling or "continuous_normal_diagonal",
        **given,
    ) as manager:
        learner = getattr(learners, kind)(manager, getattr(tf.keras.optimizers, optimizer)(0.01), **options)
        rows = manager.get_data()
        before = learner.agent.get_weights()
        losses = [np.ravel(learner.update(rows).value_loss)[0] for _ in range(10)]
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]
        assert int(learner.optimizer.iterations) == (10 if kind == "A2CLearner" else 100)
        assert all(not np.array_equal(*pair) for pair in zip(before, learner.agent.get_weights(), strict=True))
        manager.set_agent(learner.agent.get_weights())
        rows = manager.get_data()
        np.testing.assert_allclose(
            rows["log_prob"], learner.agent.flowing_log_prob(rows["state"], rows["action"]), rtol=1e-3, atol=1e-4
        )
        with pytest.raises(InvalidValueError, match="an optimizer that trains nothing yet"):
            getattr(learners, kind)(manager, learner.optimizer)


def test_a_model_is_fitted_inside_of_its_class() -> None:
    with small(Compiled) as manager:
        agent = manager.get_agent()
        before = agent.max_q(STATES).numpy()
        agent.model.learn(STATES, np.ones((16, 2), np.float32))
        manager.set_agent(agent.get_weights())
        assert not np.allclose(agent.max_q(STATES), before)
        assert_acts_as_the_agent(manager)


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("name", ["own call", "subclass instance", "functional instance"])
def test_runners_in_ray_act_with_it(name: str) -> None:
    with small(MODELS[name](), use_ray=True, num_workers=1) as manager:
        train(manager.get_agent(), tf.keras.optimizers.SGD(0.1))
        manager.set_agent(manager.get_agent().get_weights())
        assert_acts_as_the_agent(manager)
