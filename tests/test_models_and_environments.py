"""Every kind of model and environment that users bring, in a whole manager."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import really
from really import SampleManager
from really.envs.real_gym import import_gym
from tests import models
from tests.walks import Echo, GymWalk, Nested, OldWalk, Walk

gym = import_gym()
GymCartPole = importlib.import_module("gym.envs.classic_control").CartPoleEnv


def make(environment: Any = "CartPole-v1", model: Any = models.QNet, **changes: Any) -> SampleManager:
    """A small manager in this process, which acts greedily by default."""
    given = {"num_parallel": 3, "total_steps": 120, "num_steps": 40, "use_ray": False, "seed": 1, **changes}
    given = given if "action_sampling_type" in given else {**given, "epsilon": 0.0}
    return SampleManager(model, environment, **given)


# ---------------------------------------------------------------------------------------------------- models

pytestmark = pytest.mark.xdist_group("ray")
GREEDY = {"action_sampling_type": "epsilon_greedy", "epsilon": 0.0}
SHAPELESS = {"input_shape": False}
ONE_FOR_ALL = models.functional()
Q_MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "subclass": (models.QNet, {}),
    "subclass with value": (models.QNet, {"model_kwargs": {"value": True}}),
    "call in tf.function": (models.DecoratedCall, {}),
    "own __call__": (models.OwnCall, {}),
    "own __call__ in tf.function": (models.DecoratedOwnCall, {}),
    "layers in tf.function": (models.NestedDecorated, {}),
    "function": (models.functional, {}),
    "partial": (functools.partial(models.functional, num_actions=2), {}),
    "model that exists": (ONE_FOR_ALL, {}),
    "function without input shape": (models.functional, SHAPELESS),
    "batch normalisation": (models.Normalised, {}),
    "integer weights": (models.IntegerWeights, {}),
    "branches on data": (models.Branching, {}),
    "leaves TensorFlow": (models.InNumPy, {}),
}
RAY_TOO = ("subclass", "leaves TensorFlow")


def shifted(weights: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Changed weights; only larger ones, because one of them is a variance."""
    rng = np.random.default_rng(seed)
    return [weight + (3 * rng.random(weight.shape)).astype(weight.dtype) for weight in weights]


def assert_acts_greedily(manager: SampleManager) -> None:
    """Asserts that collected actions are the agent's best, up to the rounding of two ways to compute them."""
    data, agent = manager.get_data(), manager.get_agent()
    q_values = agent.q_val(data["state"], data["action"])
    np.testing.assert_allclose(q_values, agent.max_q(data["state"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "use_ray"), [*((name, False) for name in Q_MODELS), *((name, True) for name in RAY_TOO)]
)
def test_runners_act_as_the_agent_would_and_follow_its_weights(
    name: str, use_ray: bool, request: pytest.FixtureRequest
) -> None:
    if use_ray:
        request.getfixturevalue("ray_runtime")
    model, changes = Q_MODELS[name]
    with make(model=model, use_ray=use_ray, **GREEDY, **changes) as manager:
        assert_acts_greedily(manager)
        before = manager.get_data()
        for seed in range(2):
            manager.set_agent(shifted(manager.get_agent().get_weights(), seed))
            assert_acts_greedily(manager)
        assert {k: (v.dtype, v.shape) for k, v in manager.get_data().items()} == {
            k: (v.dtype, v.shape) for k, v in before.items()
        }


LEARNABLE = [name for name in Q_MODELS if name != "leaves TensorFlow"]


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_training_step_on_collected_rows(name: str) -> None:
    """A learner's step: a tape around the agent's methods, an optimizer on its model, the weights given back."""
    model, changes = Q_MODELS[name]
    with make(model=model, action_sampling_type="thompson", **changes) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        optimizer = tf.keras.optimizers.Adam(0.03)
        losses = []
        for _ in range(15):
            with tf.GradientTape() as tape:
                error = agent.q_val(data["state"], data["action"]) - data["reward"] - 1.0
                loss = tf.reduce_mean(error**2)
            variables = agent.model.trainable_variables
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients([(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None])
            losses.append(float(loss))
        assert losses[-1] < 0.9 * losses[0]
        manager.set_agent(agent.get_weights())
        with tf.GradientTape() as tape:
            policy_loss = -tf.reduce_mean(
                agent.flowing_log_prob(data["state"], data["action"]) + agent.v(data["state"])
            )
        assert any(g is not None and np.abs(g).max() > 0 for g in tape.gradient(policy_loss, variables))
        assert len(manager.get_data()["reward"]) == 120


@pytest.mark.parametrize("model", [models.Dropping, models.Noisy, models.Counting])
def test_models_whose_output_is_not_the_same_twice(model: Any) -> None:
    with make(model=model, **GREEDY) as manager:
        assert set(manager.get_data(total_steps=600)["action"]) == {0, 1}


def test_a_table_in_plain_numpy() -> None:
    """Without Keras and an input shape, one state at a time."""
    with make("FrozenLake-v1", models.Table, model_kwargs={"states": 16, "num_actions": 4}, **GREEDY) as manager:
        assert set(manager.get_data()["action"]) == {0}
        table = np.zeros((16, 4), np.float32)
        table[:, 2] = 1
        manager.set_agent([table])
        assert set(manager.get_data()["action"]) == {2}


def test_actor_and_critic() -> None:
    """`mu`, `sigma` without a batch axis, and a value; the log-probability is that of the normal distribution."""
    from scipy.stats import norm

    returns = ["log_prob", "value_estimate", "monte_carlo"]
    with make("Pendulum-v1", models.ActorCritic, model_kwargs={"dimensions": 1}, returns=returns) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        with tf.GradientTape() as tape:
            log_prob = agent.flowing_log_prob(data["state"], data["action"])
        gradients = tape.gradient(log_prob, agent.model.trainable_variables)
    outputs = agent.model(data["state"])
    expected = norm.logpdf(data["action"], outputs["mu"], outputs["sigma"])[:, 0]
    np.testing.assert_allclose(data["log_prob"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(data["value_estimate"], outputs["value_estimate"][:, 0], rtol=1e-4, atol=1e-5)
    assert sum(gradient is not None for gradient in gradients) >= 5


# ---------------------------------------------------------------------------------------------- environments


THOMPSON = {"action_sampling_type": "thompson"}
APIS = [Walk, GymWalk, OldWalk]


@pytest.mark.parametrize("kind", APIS)
def test_time_limits_in_all_three_apis(kind: Any) -> None:
    with make(kind, env_config={"length": 6}, returns=["truncated"], total_steps=600, **THOMPSON) as manager:
        data = manager.get_data()
    at, time = data["state_new"].T
    arrived, late = at >= 4, (at < 4) & (time >= 6)
    assert arrived.sum() > 5
    assert late.sum() > 5
    np.testing.assert_array_equal(data["terminal"], arrived)
    np.testing.assert_array_equal(data["truncated"], late)
    np.testing.assert_array_equal(data["not_done"], ~(arrived | late))
    np.testing.assert_array_equal(time, data["state"][:, 1] + 1, "state_new is of the state's own episode")


def test_all_three_apis_give_the_same_rows() -> None:
    found = []
    for kind in APIS:
        with make(kind, **THOMPSON) as manager:
            found.append(manager.get_data())
    for other in found[1:]:
        for name, column in found[0].items():
            np.testing.assert_array_equal(other[name], column, err_msg=name)


# Under Ray each form once, and each API once: GymWalk runs the same code as Walk.
@pytest.mark.parametrize(
    ("form", "kind", "use_ray"),
    [
        *((form, kind, False) for form in ("class", "factory", "instance") for kind in APIS),
        *(("class", OldWalk, True), ("factory", OldWalk, True), ("instance", Walk, True)),
    ],
)
def test_classes_factories_and_instances(kind: Any, form: str, use_ray: bool, request: pytest.FixtureRequest) -> None:
    if use_ray:
        request.getfixturevalue("ray_runtime")
    environment = {"class": kind, "factory": lambda length=5: kind(length), "instance": kind(5)}[form]
    config = None if form == "instance" else {"length": 5}
    with make(environment, env_config=config, use_ray=use_ray, **THOMPSON) as manager:
        data = manager.get_data()
        assert len(manager.test(20, test_episodes=3)) == 3
    assert len(data["reward"]) == 120
    assert data["state_new"][:, 1].max() == 5


def test_an_instance_stays_as_it_was() -> None:
    instance = Walk(5)
    instance.reset()
    instance.step(1)
    with make(instance, **THOMPSON) as manager:
        manager.get_data()
    assert (instance.walk.at, instance.walk.time) == (1, 1)


@pytest.mark.parametrize("use_ray", [False, True])
def test_an_id_that_only_gym_knows(use_ray: bool, request: pytest.FixtureRequest) -> None:
    if use_ray:
        request.getfixturevalue("ray_runtime")
    changes = {"model_kwargs": {"states": 500, "num_actions": 6}, "num_steps": 201, "returns": ["truncated"]}
    with make("Taxi-v3", models.OneHot, num_parallel=2, use_ray=use_ray, **changes, **THOMPSON) as manager:
        data = manager.get_data()
        lengths = manager.test(250, test_episodes=2)
    assert (data["state"].dtype, data["state"].shape) == (np.int64, (402,))
    assert data["action"].max() <= 5
    np.testing.assert_array_equal(np.flatnonzero(data["truncated"]), [199, 400])
    assert data["terminal"].sum() == 0
    assert lengths == [200, 200]


@pytest.mark.parametrize("environment", [GymCartPole, lambda: gym.make("CartPole-v1", disable_env_checker=True)])
def test_real_gym_as_a_class_and_from_a_factory(environment: Any) -> None:
    with make(environment, **THOMPSON) as manager:
        data = manager.get_data()
    assert data["state"].shape == (120, 4)
    assert data["terminal"].sum() > 0


# ----------------------------------------------------------------------------------------------------- spaces


CATEGORICAL = {"model": models.Policy, "action_sampling_type": "discrete_policy"}
NORMAL = {"model": models.ActorCritic, "action_sampling_type": "continuous_normal_diagonal"}
ACTIONS: list[tuple[spaces.Space[Any], dict[str, Any]]] = [
    (spaces.Discrete(3), {"model_kwargs": {"num_actions": 3}, **THOMPSON}),
    (spaces.Discrete(3, start=-1), {"model_kwargs": {"num_actions": 3}, **THOMPSON}),
    (spaces.Discrete(3, start=5), {"model_kwargs": {"num_actions": 3}, "action_sampling_type": "epsilon_greedy"}),
    (spaces.Discrete(3, start=2), {"model_kwargs": {"num_logits": 3}, **CATEGORICAL}),
    (spaces.MultiDiscrete([2, 3]), {"model_kwargs": {"num_logits": 5}, **CATEGORICAL}),
    (spaces.MultiDiscrete([2, 3], start=[1, -4]), {"model_kwargs": {"num_logits": 5}, **CATEGORICAL}),
    (spaces.MultiDiscrete([[2, 3], [4, 5]]), {"model_kwargs": {"num_logits": 14}, **CATEGORICAL}),
    (spaces.MultiBinary(4), {"model_kwargs": {"num_logits": 4}, **CATEGORICAL}),
    (spaces.Box(-1, 1, (2,), np.float32), {"model_kwargs": {"dimensions": 2}, **NORMAL}),
    (spaces.Box(-0.5, 0.5, (3, 2), np.float64), {"model_kwargs": {"dimensions": 6}, **NORMAL}),
    (spaces.Box(-np.inf, np.inf, (2,), np.float32), {"model_kwargs": {"dimensions": 2}, **NORMAL}),
]


@pytest.mark.parametrize(("space", "changes"), ACTIONS, ids=[str(space).replace("\n", "") for space, _ in ACTIONS])
def test_actions_of_every_space(space: spaces.Space[Any], changes: dict[str, Any]) -> None:
    """Actions are stored as sampled, converted for the environment, and `log_prob` is that of the stored action."""
    with make(lambda: Echo(space), returns=["log_prob"], **changes) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        manager.initialize_buffer(200, ["action", "state"])
        manager.store_in_buffer(data)
        sample = manager.sample(50)
        one = agent.act(data["state"][0])
        log_prob = agent.flowing_log_prob(data["state"], data["action"])
        manager.test(3, test_episodes=2)
    expected = np.dtype(np.int64) if isinstance(space, spaces.Discrete) else space.dtype
    assert data["action"].dtype == sample["action"].dtype == expected
    assert data["action"].shape == (120, *space.shape)
    assert (sample["action"].shape, np.shape(one)) == ((50, *space.shape), space.shape)
    np.testing.assert_allclose(data["log_prob"], log_prob, rtol=1e-3, atol=1e-3)
    given = data["action"]
    if isinstance(space, spaces.Box):
        assert not np.isfinite(space.low).all() or np.abs(given).max() > space.high.max(), "stored unclipped"
        given = np.clip(given, space.low, space.high)
    np.testing.assert_array_equal(data["state_new"], given.reshape(120, -1).astype(np.float32))
    assert len(np.unique(given)) > 1


class TupleModel(tf.keras.Model):  # type: ignore[misc]
    """Takes (a float vector, a number)."""

    def __init__(self, num_actions: int = 3) -> None:
        super().__init__()
        self.q = tf.keras.layers.Dense(num_actions)

    def call(self, x: Any) -> dict[str, Any]:
        place, number = x
        return {"q_values": self.q(tf.concat([place, tf.one_hot(number, 9)], axis=-1))}


IMAGE_AND_SPEED = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 1), np.uint8), "speed": spaces.Box(-9, 9, (3,))})
PLACE_AND_NUMBER = spaces.Tuple([spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(9)])
NESTED: list[tuple[Any, spaces.Space[Any], dict[str, tuple[Any, tuple[int, ...]]]]] = [
    (models.DictModel, IMAGE_AND_SPEED, {".image": (np.uint8, (8, 8, 1)), ".speed": (np.float32, (3,))}),
    (TupleModel, PLACE_AND_NUMBER, {".0": (np.float32, (2,)), ".1": (np.int64, ())}),
]


@pytest.mark.parametrize("use_ray", [False, True])
@pytest.mark.parametrize(("model", "space", "leaves"), NESTED, ids=["Dict", "Tuple"])
def test_composite_observations_have_one_column_per_leaf(
    model: Any, space: Any, leaves: dict[str, Any], use_ray: bool, request: pytest.FixtureRequest
) -> None:
    if use_ray:
        request.getfixturevalue("ray_runtime")
    with make(Nested, model, env_config={"space": space}, use_ray=use_ray, **THOMPSON) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        manager.initialize_buffer(100)
        manager.store_in_buffer(data)
        sample = manager.sample(30)
        manager.collect(50)
        assert len(manager.test(20, test_episodes=2)) == 2
    for (part, (dtype, shape)), kind in itertools.product(leaves.items(), ("state", "state_new")):
        assert (data[kind + part].dtype, data[kind + part].shape) == (dtype, (120, *shape))
        assert (sample[kind + part].dtype, sample[kind + part].shape) == (dtype, (30, *shape))
    assert set(sample) == {kind + part for part in leaves for kind in ("state", "state_new")} | {
        "action",
        "reward",
        "terminal",
    }
    for part in leaves:
        step = (data["state_new" + part] - data["state" + part]).reshape(120, -1)
        assert (step == 1).all(), "a state and the next belong together"
    parts = [sample["state" + part] for part in leaves]
    batch = tuple(parts) if isinstance(space, spaces.Tuple) else dict(zip(space, parts, strict=True))
    assert agent.act(batch).shape == (30,)
    assert agent.max_q(batch).shape == (30,)


# ------------------------------------------------------------------------------------------------------ Atari

ATARI: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "ALE/Pong-v5": (lambda: "ALE/Pong-v5", (210, 160, 3)),
    "atari('pong')": (lambda: really.atari("pong"), (4, 84, 84)),
}


class Pixels(tf.keras.Model):  # type: ignore[misc]
    """A very small network on uint8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.q = tf.keras.layers.Flatten(), tf.keras.layers.Dense(6)

    def call(self, x: Any) -> dict[str, Any]:
        return {"q_values": self.q(self.flatten(tf.cast(x[:, ::4, ::4], tf.float32) / 255.0))}


@pytest.mark.parametrize("name", ATARI)
def test_pong(name: str) -> None:
    environment, shape = ATARI[name]
    changes = {"num_parallel": 2, "num_steps": 30, "total_steps": 60, **THOMPSON}
    with make(environment(), Pixels, **changes) as manager:
        manager.initialize_buffer(100)
        manager.store_in_buffer(manager.get_data())
        sample = manager.sample(8)
        steps, rewards = manager.test(20, test_episodes=2, evaluation_measure="time_and_reward")
    assert (sample["state"].dtype, sample["state"].shape) == (np.uint8, (8, *shape))
    assert sample["state"].max() > 0
    assert (steps, len(rewards)) == ([20, 20], 2)
