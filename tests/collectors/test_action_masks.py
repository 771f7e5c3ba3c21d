"""Action masks from environment to learner: actions taken, columns, log-probabilities, q-values, tests and errors."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from really import EnvironmentFailedError, InvalidValueError, SampleManager
from really.envs.spec import EnvironmentSpec
from really.evaluation.viewer import Watcher, watched_batch
from really.learners import A2CLearner, DQNLearner, PPOLearner
from tests.environments import Forbidding, allowed, is_allowed

L = keras.layers
DISCRETE, PARTS, BITS = spaces.Discrete(4, start=2), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)
SOURCES = ("state", "info", "method")
RETURNS = ["log_prob", "value_estimate", "advantage", "episode_end"]


class Network(keras.Model):
    """Reads the numbers of an observation with or without a mask."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.hidden, self.heads = L.Dense(8, "tanh"), {name: L.Dense(size) for name, size in sizes.items()}

    def call(self, state: Any) -> dict[str, Any]:
        hidden = self.hidden(tf.cast(state["numbers"] if isinstance(state, dict) else state, tf.float32))
        return {name: head(hidden) for name, head in self.heads.items()}


def q_network() -> Network:
    return Network(q_values=4, v_estimate=1)


def policy_network(space: Any) -> Network:
    return Network(policy=3 if isinstance(space, spaces.MultiBinary) else len(allowed(0, space)), v_estimate=1)


def make(where: str, kind: str = "epsilon_greedy", agents: int = 3, space: Any = None, **options: Any) -> SampleManager:
    environment = functools.partial(Forbidding, where, space, **options.pop("environment", {}))
    model = functools.partial(policy_network, DISCRETE if space is None else space)
    model = model if kind == "discrete_policy" else q_network
    given = {"num_steps": 30, "use_ray": False, "seed": 2, "action_sampling_type": kind, **options}
    used = {"epsilon_greedy": {"epsilon": 0.5}, "thompson": {"temperature": 0.3}}.get(kind, {})
    return SampleManager(model, environment, agents, 30 * agents, **(used | given))


def masks_in(data: dict[str, Any], key: str = "state") -> np.ndarray:
    """The delivered masks of `state` or `state_new`."""
    name = {"state": "action_mask", "state_new": "action_mask_new"}[key]
    return data[f"{key}.action_mask"] if f"{key}.action_mask" in data else data[name]


def numbers_in(data: dict[str, Any], key: str = "state") -> np.ndarray:
    return data[f"{key}.numbers"] if f"{key}.numbers" in data else data[key]


def states_in(data: dict[str, Any], key: str = "state") -> Any:
    if f"{key}.numbers" not in data:
        return data[key]
    return {part: data[f"{key}.{part}"] for part in ("action_mask", "numbers")}


def mask_argument(agent: Any, data: dict[str, Any]) -> dict[str, Any]:
    return {} if agent.masks.leaf is not None else {"action_mask": data["action_mask"]}


@pytest.mark.parametrize("where", SOURCES)
@pytest.mark.parametrize("kind", ["epsilon_greedy", "thompson", "discrete_policy"])
def test_runners_take_allowed_actions_and_deliver_masks_and_exact_log_probs(where: str, kind: str) -> None:
    with make(where, kind, returns=RETURNS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        assert manager.test(20, test_episodes=2) == [7, 7]
        for key in ("state", "state_new"):
            expected = [allowed(int(step), DISCRETE) for step in numbers_in(data, key)[:, 0]]
            np.testing.assert_array_equal(masks_in(data, key) != 0, np.array(expected) != 0)
        assert set(data) - set(RETURNS) >= {"action", "reward"}
        for mask, action in zip(masks_in(data), data["action"], strict=True):
            assert is_allowed(mask, action, DISCRETE)
        given = mask_argument(agent, data)
        for _ in range(2):
            log_prob, entropy = agent.flowing_log_prob(states_in(data), data["action"], return_entropy=True, **given)
            np.testing.assert_allclose(log_prob, data["log_prob"], rtol=1e-4, atol=1e-5)
            assert np.isfinite(entropy).all()
        for greedy in (True, False):
            actions = agent.act(states_in(data), greedy=greedy, **given)
            assert all(is_allowed(*pair, DISCRETE) for pair in zip(masks_in(data), actions, strict=True))


@pytest.mark.parametrize("space", [PARTS, BITS], ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("where", ["state", "info"])
def test_parts_of_actions_are_masked_one_by_one(where: str, space: Any) -> None:
    with make(where, "discrete_policy", space=space, returns=["log_prob"]) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        assert manager.test(20, test_episodes=2) == [7, 7]
        given = mask_argument(agent, data)
        log_prob = agent.flowing_log_prob(states_in(data), data["action"], **given)
        np.testing.assert_allclose(log_prob, data["log_prob"], rtol=1e-4, atol=1e-5)
        forbidden = np.zeros_like(data["action"]) + (np.array([2, 3]) if space is PARTS else 1)
        wrong = [not is_allowed(*pair, space) for pair in zip(masks_in(data), forbidden, strict=True)]
        got = agent.flowing_log_prob(states_in(data), forbidden, **given).numpy()
        np.testing.assert_array_equal(np.isneginf(got), wrong)


def test_entropy_and_gradients_are_those_of_the_allowed_actions() -> None:
    with make("info", "discrete_policy") as manager:
        data, agent = manager.get_data(), manager.get_agent()
    states, masks = data["state"][:20], data["action_mask"][:20]
    with tf.GradientTape(persistent=True) as tape:
        log_prob, entropy = agent.flowing_log_prob(states, data["action"][:20], True, action_mask=masks)
        logits = agent.outputs(tf.constant(states), "policy")["policy"]
        expected = tf.concat(
            [tf.nn.log_softmax(tf.boolean_mask(*pair)[None])[0] for pair in zip(logits, masks, strict=True)], 0
        )
        chosen = np.concatenate([np.eye(4)[a - 2][mask] for a, mask in zip(data["action"], masks, strict=False)]) > 0
        slow = tf.reduce_sum(expected[chosen] * 1.5) - tf.reduce_sum(expected * tf.exp(expected))
        fast = tf.reduce_sum(log_prob) * 1.5 + tf.reduce_sum(entropy)
    variables = [variable.value for variable in agent.model.trainable_variables]
    np.testing.assert_allclose(fast, slow, rtol=1e-5)
    pairs = (tape.gradient(total, variables, unconnected_gradients="zero") for total in (fast, slow))
    for got, wanted in zip(*pairs, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_values_of_states_are_those_of_allowed_actions() -> None:
    with make("info") as manager:
        data, agent = manager.get_data(), manager.get_agent()
    states, masks = data["state_new"], data["action_mask_new"].copy()
    masks[3] = False
    q = agent.outputs(tf.constant(states), "q_values")["q_values"].numpy()
    expected = np.where(masks, q, -np.inf).max(1)
    expected[3] = q[3].max()  # a state without an allowed action is not restricted
    for given in (masks, tf.constant(masks), masks.astype(np.int8), tf.constant(masks)):
        np.testing.assert_allclose(agent.max_q(tf.constant(states), action_mask=given), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(agent.max_q(states), q.max(1), rtol=1e-4, atol=1e-6)
    assert agent.max_q(states[5], action_mask=masks[5]).shape == ()
    with pytest.raises(InvalidValueError, match=r"action_mask: expected \[n, 4\] with n = 90 states, got \[89, 4\]"):
        agent.max_q(states, action_mask=masks[1:])


def target_of(learner: Any, data: dict[str, Any], gamma: float) -> np.ndarray:
    """The targets of double DQN over allowed actions, row by row."""
    states = states_in(data, "state_new")
    online, slow = (
        part.outputs(tf.nest.map_structure(tf.constant, states), "q_values")["q_values"].numpy()
        for part in (learner.agent, learner.target)
    )
    targets = []
    for row, mask in enumerate(masks_in(data, "state_new") != 0):
        choices = np.flatnonzero(mask) if mask.any() else np.arange(4)
        best = choices[online[row, choices].argmax()] if learner._double else choices[slow[row, choices].argmax()]
        targets.append(data["reward"][row] + gamma * (1 - data["terminal"][row]) * slow[row, best])
    return np.array(targets)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("where", ["state", "info"])
def test_dqn_bootstraps_from_allowed_actions(where: str, double: bool) -> None:
    options = {"terminates": True, "empty": 7}  # no action is allowed in the last state
    with make(where, environment=options) as manager:
        manager.initilize_buffer(100)
        data = manager.get_data()
        manager.store_in_buffer(data)
        learner = DQNLearner(
            manager, keras.optimizers.SGD(0.0), gamma=0.99, target_every=100, double=double, jit_compile=False
        )
        learner.target.set_weights([weight + 0.3 for weight in learner.target.get_weights()])
        batch = manager.buffer.take(np.arange(60))
        update = learner.update(batch)
    assert masks_in(batch).shape == masks_in(batch, "state_new").shape == (60, 4)
    assert not masks_in(batch, "state_new")[batch["terminal"] > 0].any()
    np.testing.assert_allclose(update.q_value + update.td_error, target_of(learner, batch, 0.99), rtol=1e-4, atol=1e-5)


def test_n_step_batches_have_the_masks_of_their_last_state() -> None:
    with make("info", agents=1, returns=["episode_end"]) as manager:
        manager.initilize_buffer(100, ["state", "action", "reward", "state_new", "terminal", "episode_end"], n_step=3)
        manager.collect(30)
        batch = manager.buffer.sample(50)
    for mask, step in zip(batch["action_mask_new"], batch["state_new"][:, 0], strict=True):
        np.testing.assert_array_equal(mask, allowed(int(step), DISCRETE) != 0)


@pytest.mark.parametrize("where", ["state", "info"])
@pytest.mark.parametrize("maker", [PPOLearner, A2CLearner])
def test_policy_learners_use_the_masks(where: str, maker: Any) -> None:
    options = {"epochs": 1, "minibatch_size": 90} if maker is PPOLearner else {}
    with make(where, "discrete_policy", returns=RETURNS) as manager:
        data = manager.get_data()
        update = maker(manager, keras.optimizers.SGD(0.01), jit_compile=False, **options).update(data)
        if where == "info":
            learner = maker(manager.get_agent(), keras.optimizers.SGD(0.01), jit_compile=False, **options)
            with pytest.raises(InvalidValueError, match="missing: 'action_mask'"):
                learner.update({name: column for name, column in data.items() if name != "action_mask"})
    if maker is PPOLearner:
        assert update.approx_kl[0] == pytest.approx(0, abs=1e-6)
        assert update.clip_fraction[0] == 0
    assert all(np.isfinite(number).all() for number in update)


@pytest.mark.parametrize("where", SOURCES)
def test_a_mask_without_an_allowed_action_names_environment_agent_and_step(where: str) -> None:
    with make(where, environment={"empty": 5}) as manager, pytest.raises(EnvironmentFailedError) as failure:
        manager.get_data()
    expected = "of agent 0, step 5: expected an action mask that allows an action, got [0, 0, 0, 0]"
    assert expected in str(failure.value)
    assert "environment 'Forbidding'" in str(failure.value)


def test_info_without_a_mask_in_the_middle_of_an_episode_is_an_error() -> None:
    message = "step 2 of its episode: step: ValueError: info: expected 'action_mask', as the first reset gave one"
    with make("info", environment={"missing": 3}) as manager, pytest.raises(EnvironmentFailedError, match=message):
        manager.get_data()
    with make("info", environment={"missing": 7}) as manager:
        data = manager.get_data()
    ended = data["not_done"] == 0
    assert not data["action_mask_new"][ended].any()
    assert data["action_mask_new"][~ended].any(axis=1).all()


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_masks_of_vector_environments_belong_to_their_states(mode: AutoresetMode) -> None:
    def vector(num_envs: int) -> SyncVectorEnv:
        return SyncVectorEnv([Forbidding] * num_envs, autoreset_mode=mode)

    with SampleManager(q_network, vector, 2, 40, num_steps=20, use_ray=False) as manager:
        data = manager.get_data()
    for key in ("state", "state_new"):
        expected = [allowed(int(step), DISCRETE) for step in data[key][:, 0]]
        np.testing.assert_array_equal(masks_in(data, key), np.array(expected) != 0)


class Proxy:
    """Answers to every name, as a client of a simulator in another process does."""

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(4)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: [1, 1, 1, 1] if name == "action_masks" else None

    def reset(self) -> np.ndarray:
        return np.zeros(2, np.float32)

    def step(self, action: int) -> tuple[Any, float, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, {}


def test_an_environment_that_answers_to_every_name_has_no_masks() -> None:
    assert Proxy().action_masks() == [1, 1, 1, 1]
    assert EnvironmentSpec(Proxy).probe().masks is None


def test_a_rendered_environment_keeps_its_masks() -> None:
    spec = EnvironmentSpec(Forbidding)
    batch = watched_batch(spec, np.random.SeedSequence(0), spec.make(), Watcher())
    batch.reset()
    for _ in range(10):
        action = batch.action_masks[0].argmax() + 2
        batch.step(np.array([action]))
        step = int(batch.observations[0][0, 0])
        np.testing.assert_array_equal(batch.action_masks[0], allowed(step, DISCRETE) != 0)


def test_masks_that_are_floats_are_not_normalised() -> None:
    with make("state", environment={"dtype": np.float32}, normalize_observations=True) as manager:
        manager.get_data()
        manager.set_agent([weight + 0.01 for weight in manager.get_agent().get_weights()])
        data = manager.get_data()
    assert set(np.unique(data["state.action_mask"])) == {0.0, 1.0}
    assert data["state.numbers"].min() < 0


def test_masks_can_be_ignored() -> None:
    class Tolerant(Forbidding):
        def step(self, action: Any) -> Any:
            self.count += 1
            return self._show(), 1.0, False, self.count == self.length, self._info()

    options = {"num_steps": 100, "use_ray": False, "epsilon": 1.0, "action_sampling_type": "epsilon_greedy", "seed": 0}
    with SampleManager(q_network, Tolerant, 1, 100, action_masks=False, **options) as manager:
        data = manager.get_data()
        assert manager.get_agent().masks is None
    assert "action_mask" not in data
    steps = zip(data["state"][:, 0], data["action"], strict=True)
    assert {is_allowed(allowed(int(step), DISCRETE), action, DISCRETE) for step, action in steps} == {False, True}


def test_a_method_without_masks_warns_once(caplog: Any) -> None:
    with make("info") as manager:
        data, agent = manager.get_data(), manager.get_agent()
    agent.q_val(data["state"], data["action"])
    assert not caplog.messages
    for call in (agent.act, agent.max_q):
        call(data["state"])
    agent.flowing_log_prob(data["state"], data["action"])
    assert ["agent.act: expected action_mask=, the column" in message for message in caplog.messages] == [True]
    with make("state") as manager, pytest.raises(InvalidValueError, match="expected none, as the states have masks"):
        manager.get_agent().max_q({"numbers": np.zeros(2), "action_mask": np.ones(4)}, action_mask=np.ones(4))
    assert len(caplog.messages) == 1


def test_taxi_masks_moves_that_have_no_effect() -> None:
    class OneHot(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.q = L.Dense(6)

        def call(self, state: Any) -> dict[str, Any]:
            return {"q_values": self.q(tf.one_hot(state, 500))}

    with SampleManager(OneHot, "Taxi-v3", 2, 200, num_steps=100, use_ray=False, seed=0) as manager:
        data = manager.get_data()
    assert data["action_mask"][np.arange(200), data["action"]].all()
    assert not data["action_mask"].all()
    moved = data["state"] != data["state_new"]
    assert moved.all()
