"""Arguments and names of the published versions of this API, which scripts of winter 2020/21 use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer, SampleManager
from really.errors import InvalidTypeError, InvalidValueError
from tests.environments import Counter
from tests.models import QNet


class OldCounter:
    """Counts its steps, with the API of gym before 0.26."""

    action_space, observation_space = Counter().action_space, Counter().observation_space

    def __init__(self) -> None:
        self.is_closed = False

    def reset(self) -> np.ndarray:
        self.count = 0
        return np.zeros(1, np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.count += 1
        return np.full(1, self.count, np.float32), 1.0, self.count == 3, {}

    def close(self) -> None:
        self.is_closed = True


class Table:
    """A model that is no TensorFlow model: it has one value for each action, whatever the state is."""

    def __init__(self) -> None:
        self.values = np.array([0.0, 1.0], np.float32)

    def __call__(self, state: Any) -> dict[str, Any]:
        return {"q_values": np.tile(self.values, (len(state), 1))}

    def get_weights(self) -> list[np.ndarray]:
        return [self.values.copy()]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        (self.values,) = weights


def small(**changes: Any) -> SampleManager:
    given = {"environment": "CartPole-v1", "num_parallel": 1, "total_steps": 20, "num_steps": 20, "use_ray": False}
    return SampleManager(**{"model": QNet, "action_sampling_type": "epsilon_greedy", **given, **changes})


@pytest.fixture(scope="module")
def manager() -> Iterator[SampleManager]:
    with small(returns=["Monte_Carlo", "LOG_PROB"], is_tf=True) as made:
        yield made


def test_names_of_returns_are_taken_in_any_case(manager: SampleManager) -> None:
    assert manager.kwargs["returns"] == ["monte_carlo", "log_prob"]
    assert {"monte_carlo", "log_prob"} <= set(manager.get_data())
    with pytest.raises(InvalidValueError, match="returns: expected one of"):
        small(returns=["Monte"])


def test_an_agent_for_tests_acts_greedily(manager: SampleManager) -> None:
    manager.set_epsilon(1.0)
    agent, states = manager.get_agent(test=True), np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    best = manager.get_agent().act(states, greedy=True)
    np.testing.assert_array_equal(agent.act(states), best)
    assert (manager.get_agent().act(states) != best).any()
    np.testing.assert_array_equal(agent.copy().greedy_copy().act(states), best)


def test_values_have_the_published_name() -> None:
    with small(model_kwargs={"value": True}) as manager:
        agent, states = manager.get_agent(), np.ones((3, 4), np.float32)
        np.testing.assert_array_equal(agent.v_estimate(states), agent.v(states))


def test_arguments_are_attributes_of_the_manager() -> None:
    with small(returns=["Monte_Carlo"]) as manager:
        assert (manager.model, manager.environment, manager.num_parallel) == (QNet, "CartPole-v1", 1)
        assert (manager.returns, manager.total_steps) == (["monte_carlo"], 20)
        manager.total_steps = 60
        assert manager.kwargs["total_steps"] == len(manager.get_data()["reward"]) == 60
        manager.set_epsilon(0.25)
        agent = manager.get_agent()
        assert (agent.action_sampling_type, agent.epsilon, agent.temperature) == ("epsilon_greedy", 0.25, 1)


@pytest.mark.parametrize("value", [True, False])
def test_an_agent_acts_as_a_runner_would_keep_it(value: bool) -> None:
    states = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with small(action_sampling_type="thompson", model_kwargs={"value": value}) as manager:
        agent = manager.get_agent()
        kept = agent.act_experience(states, return_log_prob=True)
        assert set(kept) == {"action", "log_probability"} | ({"value_estimate"} if value else set())
        assert set(kept["action"]) == {0, 1}
        np.testing.assert_array_equal(kept["log_probability"], agent.flowing_log_prob(states, kept["action"]))
        if value:
            np.testing.assert_array_equal(kept["value_estimate"], agent.v(states))
        assert set(agent.act_experience(states[:1])) == {"action"} | ({"value_estimate"} if value else set())


def test_a_model_is_loaded_by_its_name(manager: SampleManager, tmp_path: Path) -> None:
    agent = manager.get_agent()
    folders = []
    for epoch, name in enumerate(["first", "second", "first", "second"]):
        agent.set_weights([np.full_like(weight, epoch) for weight in agent.get_weights()])
        folders.append(Path(manager.save_model(tmp_path, epoch, name)))
    assert manager.load_model(tmp_path, model_name="first", compile=False).epoch == 2
    assert manager.load_model(tmp_path, folders[0].name).epoch == 0
    assert manager.load_model(tmp_path).epoch == 3
    with pytest.raises(InvalidValueError, match=r"expected folders third_<epoch>_<time> in .*, but it holds 'first_0"):
        manager.load_model(tmp_path, "third")


def test_the_environment_of_an_id_has_the_old_api() -> None:
    with small(env_config={"max_episode_steps": 4}) as manager:
        env = manager.env_instance
        assert env is manager.env_instance
        assert (env.action_space.n, env.observation_space.shape) == (2, (4,))
        for _ in range(2):
            assert np.shape(env.reset()) == (4,)
            steps = [env.step(number % 2) for number in range(4)]
            assert [done for _, _, done, _ in steps] == [False, False, False, True]
            assert steps[-1][3]["TimeLimit.truncated"] is True
        with pytest.raises(AttributeError):
            _ = env.no_such_attribute


def test_the_environment_of_a_class_is_as_the_class_makes_it() -> None:
    with small(environment=OldCounter) as manager:
        env = manager.env_instance
        assert isinstance(env, OldCounter)
        assert not env.is_closed
    assert env.is_closed


def test_the_aggregator_has_a_short_name(manager: SampleManager, tmp_path: Path) -> None:
    assert manager.agg is None
    manager.initialize_aggregator(str(tmp_path / "progress"), saving_after=5, aggregator_keys=["loss"])
    manager.update_aggregator(loss=[1.0, 2.0])
    assert manager.agg is manager.aggregator
    assert not manager.agg.plot_path.exists()
    assert manager.agg.save_graphic().exists()


def test_a_model_without_tensorflow_has_its_weights_without_a_call() -> None:
    with small(is_tf=False, model=Table, epsilon=0.0) as manager:
        assert manager.kwargs["input_shape"] is False
        assert set(manager.get_data()["action"]) == {1}
        manager.set_agent([np.array([2.0, 1.0], np.float32)])
        assert set(manager.get_data()["action"]) == {0}
    with pytest.raises(InvalidTypeError, match="is_tf: expected True or False, got 'no'"):
        small(is_tf="no")


def test_rows_of_a_buffer_by_key() -> None:
    buffer = ReplayBuffer(5, ["state", "reward"])
    assert (list(buffer.buffer), len(buffer.buffer["state"]), buffer.size) == (["state", "reward"], 0, 5)
    buffer.put({"state": np.arange(14.0).reshape(7, 2), "reward": np.arange(7)})
    np.testing.assert_array_equal(buffer.buffer["reward"], [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(buffer.buffer["state"][-1], [12, 13])
    assert {key: len(rows) for key, rows in buffer.buffer.items()} == {"state": 5, "reward": 5}
    with pytest.raises(KeyError, match="action"):
        buffer.buffer["action"]
    with pytest.raises(ValueError, match="read-only"):
        buffer.buffer["reward"][0] = 1


def test_rows_that_share_frames_are_read_whole() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 1200), np.uint8)
    buffer = ReplayBuffer(6)
    buffer.put({"state": frames[:-1], "state_new": frames[1:], "reward": np.arange(8.0)})
    np.testing.assert_array_equal(buffer.buffer["state"], frames[2:8])
    np.testing.assert_array_equal(buffer.buffer["state_new"], frames[3:])
