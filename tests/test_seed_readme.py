"""A test for each line of the API contract (the seed's README): every name, argument, default and spelling in it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from really import InvalidStateError, SampleManager
from tests.models import ActorCritic, OwnCall, QNet

pytestmark = pytest.mark.usefixtures("ray_runtime")


class MyModel(tf.keras.Model):
    """A model as users of the published API write it."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.hidden = tf.keras.layers.Dense(16, activation="tanh")
        self.q = tf.keras.layers.Dense(num_actions)
        self.v = tf.keras.layers.Dense(1)

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = self.hidden(state)
        return {"q_values": self.q(hidden), "v_estimate": self.v(hidden)}


EXAMPLE: dict[str, Any] = {
    "model": MyModel,
    "environment": "CartPole-v0",
    "num_parallel": 5,
    "total_steps": 100,
    "returns": ["monte_carlo"],
    "action_sampling_type": "thompson",
    "model_kwargs": {"num_actions": 2},
    "temperature": 0.5,
    "num_episodes": 20,
}


@pytest.fixture(scope="module")
def manager() -> Iterator[SampleManager]:
    with SampleManager(**EXAMPLE) as made:
        yield made


def quick(**changes: Any) -> SampleManager:
    """A small manager in this process."""
    given = {"num_steps": 25, **EXAMPLE, "num_episodes": None, "use_ray": False, **changes}
    return SampleManager(**given)


def test_the_example(manager: SampleManager) -> None:
    data = manager.get_data()
    assert set(data) == {"state", "action", "reward", "state_new", "not_done", "terminal", "monte_carlo"}
    rows = len(data["reward"])
    assert rows >= 100
    assert {len(column) for column in data.values()} == {rows}
    assert data["not_done"][-1] == 0


def test_constructor_defaults() -> None:
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(SampleManager.__init__).parameters.items()
    }
    assert (defaults["gamma"], defaults["temperature"], defaults["epsilon"]) == (0.99, 1.0, 0.95)
    assert defaults["remote_time_out"] is None
    assert list(defaults["returns"]) == []
    with quick(num_parallel=25, num_steps=None) as manager:
        assert manager.kwargs["num_episodes"] == 1
        assert manager.kwargs["remote_min_returns"] == 2


def test_both_episodes_and_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_episodes and num_steps: expected one of them, got both \(2 and 5\)"):
        SampleManager(QNet, "CartPole-v1", 1, 1, num_episodes=2, num_steps=5)


@pytest.mark.parametrize("name", ["action_sampling_type", "actin_sampling_type"])
def test_the_sampling_type_is_spelled_either_way(name: str) -> None:
    given = {**EXAMPLE, "use_ray": False}
    del given["action_sampling_type"]
    with SampleManager(**given, **{name: "epsilon_greedy"}) as manager:
        assert manager.get_agent().policy.sampling_type == "epsilon_greedy"


@pytest.mark.parametrize("name", ["continous_normal_diagonal", "continuous_normal_diagonal"])
def test_continuous_models(name: str) -> None:
    changes = {"model": ActorCritic, "model_kwargs": {"dimensions": 1}, "environment": "Pendulum-v1"}
    with quick(**changes, action_sampling_type=name, returns=["log_prob", "value_estimate"], seed=1) as manager:
        data = manager.get_data(total_steps=1000)
    assert data["action"].dtype == np.float32
    assert data["action"].shape[1:] == (1,)
    assert np.isfinite(data["log_prob"]).all()
    assert np.abs(data["action"]).max() > 2.0, "actions are stored as sampled, not clipped to the Box"


@pytest.mark.parametrize("returned", ["value_estimate", "log_prob", "monte_carlo"])
def test_each_return_key_adds_its_column(returned: str) -> None:
    with quick(returns=[returned]) as manager:
        data = manager.get_data()
    assert data[returned].dtype == np.float32
    assert data[returned].shape == data["reward"].shape


def test_initial_weights_are_used() -> None:
    with quick() as first:
        weights = [np.full_like(weight, 0.25) for weight in first.get_agent().get_weights()]
    with quick(weights=weights) as manager:
        for got, given in zip(manager.get_agent().get_weights(), weights, strict=True):
            np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize("input_shape", [None, True, (4,), [4]])
def test_input_shape(input_shape: Any) -> None:
    with quick(input_shape=input_shape) as manager:
        assert len(manager.get_agent().get_weights()) == 6


def test_a_model_that_needs_no_input_shape() -> None:
    built = QNet()
    built(np.zeros((1, 4), np.float32))
    with quick(model=lambda: built, model_kwargs=None, input_shape=False) as manager:
        assert len(manager.get_data()["reward"]) >= 100


class Corridor:
    """A custom environment with the old API: walk right to the end."""

    def __init__(self, length: int = 5) -> None:
        import gym

        self.length = length
        self.action_space = gym.spaces.Discrete(2)
        self.observation_space = gym.spaces.Box(0, 100, (1,), np.float32)

    def reset(self) -> np.ndarray:
        self.at = 0
        return np.array([0.0], np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.at = max(0, self.at + (1 if action else -1))
        return np.array([self.at], np.float32), -1.0, self.at >= self.length, {}


@pytest.mark.parametrize("name", ["env_config", "env_kwargs"])
def test_a_custom_environment_with_its_config(name: str) -> None:
    with quick(environment=Corridor, seed=1, **{name: {"length": 3}}) as manager:
        data = manager.get_data(total_steps=500)
    assert data["state_new"].max() == 3
    assert data["terminal"].sum() == (data["state_new"] == 3).sum() > 0


def test_get_data_in_steps_mode_continues_episodes() -> None:
    with quick(num_parallel=1, num_steps=7, total_steps=7, seed=1) as manager:
        calls = [manager.get_data() for _ in range(30)]
    assert [len(call["reward"]) for call in calls] == [7] * 30
    assert sum(call["terminal"].sum() for call in calls) > 0
    for before, after in itertools.pairwise(calls):
        if before["not_done"][-1]:
            np.testing.assert_array_equal(before["state_new"][-1], after["state"][0])


def test_get_data_in_episodes_mode_delivers_whole_episodes() -> None:
    with quick(num_episodes=3, num_steps=None, returns=["agent"], seed=0) as manager:
        data = manager.get_data()
    ends = np.flatnonzero(data["not_done"] == 0)
    assert ends[-1] == len(data["reward"]) - 1
    assert len(ends) % 3 == 0
    assert len(np.unique(data["agent"])) == 5


def test_get_data_belongs_to_the_caller() -> None:
    with quick() as manager:
        data = manager.get_data()
        for column in data.values():
            column += 1


def test_buffer_with_its_default_keys(manager: SampleManager) -> None:
    for initialize in (manager.initilize_buffer, manager.initialize_buffer):
        initialize(250)
        manager.store_in_buffer(manager.get_data())
        sample = manager.sample(64)
        assert set(sample) == {"state", "action", "reward", "state_new", "terminal"}
        assert {len(column) for column in sample.values()} == {64}


def test_buffer_is_first_in_first_out() -> None:
    with quick() as manager:
        manager.initilize_buffer(3, optim_keys=["reward"])
        manager.store_in_buffer({"reward": [1.0, 2.0]})
        manager.store_in_buffer({"reward": np.array([3.0, 4.0, 5.0], np.float32)})
        assert set(manager.sample(200)["reward"]) == {3.0, 4.0, 5.0}


def test_buffer_takes_lists_arrays_and_tensors() -> None:
    with quick() as manager:
        manager.initilize_buffer(100, optim_keys=["a", "b", "c"])
        manager.store_in_buffer({"a": [1.0, 2.0], "b": np.array([1, 2]), "c": tf.constant([1.0, 2.0])})
        sample = manager.sample(50)
        assert sample["a"].dtype == sample["c"].dtype == np.float32
        np.testing.assert_array_equal(sample["a"], sample["b"])
        np.testing.assert_array_equal(sample["a"], sample["c"])


def test_sample_without_the_buffer_collects_new_rows() -> None:
    with quick() as manager:
        sample = manager.sample(33, from_buffer=False)
        assert {len(column) for column in sample.values()} == {33}


def test_the_buffer_has_to_be_made_first() -> None:
    with quick() as manager:
        for use in (lambda: manager.sample(3), lambda: manager.store_in_buffer({"reward": [1.0]})):
            with pytest.raises(InvalidStateError, match=r"expected initialize_buffer\(\) to be called first"):
                use()


def test_the_agents_methods(manager: SampleManager) -> None:
    agent = manager.get_agent()
    states = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    q_values = agent.model(states)["q_values"].numpy()
    actions = agent.act(states)
    assert actions.shape == (6,)
    assert set(actions) <= {0, 1}
    np.testing.assert_allclose(agent.max_q(states), q_values.max(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent.q_val(states, actions), q_values[np.arange(6), actions], rtol=1e-5, atol=1e-6)
    assert agent.act(states[0]).shape == ()
    agent.set_weights(agent.get_weights())


def test_set_agent_is_what_runners_act_with() -> None:
    with quick(action_sampling_type="epsilon_greedy", epsilon=0.0) as manager:
        agent = manager.get_agent()
        for better in (0, 1):
            weights = [np.zeros_like(weight) for weight in agent.get_weights()]
            (bias,) = (at for at, weight in enumerate(weights) if weight.shape == (2,))
            weights[bias][better] = 1.0
            manager.set_agent(weights)
            assert set(manager.get_data()["action"]) == {better}


def test_save_and_load(tmp_path: Path) -> None:
    with quick() as manager:
        agent = manager.get_agent()
        old = agent.get_weights()
        manager.save_model(str(tmp_path), 3)
        assert len(list(tmp_path.glob("model_3_*"))) == 1
        manager.set_agent([weight + 1 for weight in old])
        manager.save_model(str(tmp_path), 4, model_name="other")
        assert len(list(tmp_path.glob("other_4_*"))) == 1
        loaded = manager.load_model(str(tmp_path))
        assert loaded.epoch == 4
        again, epoch = manager.load_model(str(next(tmp_path.glob("model_3_*"))))
        assert epoch == 3
        for got, expected in zip(again.get_weights(), old, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_save_and_load_a_model_with_its_own_call(tmp_path: Path) -> None:
    with quick(model=OwnCall) as manager:
        weights = manager.get_agent().get_weights()
        manager.save_model(str(tmp_path), 0)
    with quick(model=OwnCall) as manager:
        for got, expected in zip(manager.load_model(str(tmp_path)).get_weights(), weights, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_test_measures(manager: SampleManager, capsys: pytest.CaptureFixture[str]) -> None:
    steps = manager.test(50, test_episodes=7)
    assert len(steps) == 7
    assert all(1 <= count <= 50 for count in steps)
    rewards = manager.test(50, test_episodes=7, evaluation_measure="reward", do_print=True)
    assert len(rewards) == 7
    assert "mean" in capsys.readouterr().out
    steps, rewards = manager.test(50, test_episodes=7, evaluation_measure="time_and_reward")
    assert steps == rewards, "a CartPole step is worth 1"
    assert len(manager.test(10)) == 100


def test_test_renders_or_says_that_it_cannot(caplog: pytest.LogCaptureFixture) -> None:
    with quick() as manager:
        assert len(manager.test(10, test_episodes=2, render=True)) == 2
    assert "there is none" in caplog.text


def test_aggregator(manager: SampleManager, tmp_path: Path) -> None:
    manager.initialize_aggregator(str(tmp_path), saving_after=2, aggregator_keys=["loss", "time_steps"])
    for epoch in range(4):
        manager.update_aggregator(loss=[tf.constant([1.0, 2.0]), 0.5], time_steps=[[epoch]])
    assert list(tmp_path.glob("*.png"))


def test_aggregator_default_key(manager: SampleManager, tmp_path: Path) -> None:
    manager.initialize_aggregator(path=str(tmp_path))
    manager.update_aggregator(loss=0.5)
    with pytest.raises(ValueError, match="reward"):
        manager.update_aggregator(reward=1.0)


def test_what_later_scripts_use(capsys: pytest.CaptureFixture[str]) -> None:
    with quick(action_sampling_type="epsilon_greedy") as manager:
        rows = len(manager.get_data(do_print=True, total_steps=200)["reward"])
        assert rows >= 200
        assert str(rows) in capsys.readouterr().out
        manager.set_epsilon(0.0)
        manager.set_temperature(2.0)
        assert (manager.kwargs["epsilon"], manager.kwargs["temperature"]) == (0.0, 2.0)
        manager.kwargs["weights"] = [np.zeros_like(w) for w in manager.get_agent().get_weights()]
        assert set(manager.get_data()["action"]) == {0}
        manager.kwargs["model_kwargs"] = {"num_actions": 2}
        assert len(manager.get_data()["reward"]) >= 100
        agent = manager.get_agent()
        assert agent.v(np.zeros((3, 4), np.float32)).shape == (3,)
        assert agent.flowing_log_prob(np.zeros((3, 4), np.float32), np.zeros(3, np.int64)).shape == (3,)
