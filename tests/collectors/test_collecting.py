"""Collecting: whole results, in order and repeatable, from runners in Ray processes and in this process."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import ray

from really import EnvironmentFailedError, ModelError, ReallyError, RunnerTimeoutError, SampleManager
from really.collectors.seeds import ENVIRONMENT_STREAM, agent_seed
from really.envs.batch import seed_of
from tests.environments import Counter, Raising, RaisingOnce, SlowAlone
from tests.models import Policy, QNet

pytestmark = pytest.mark.usefixtures("ray_runtime")
ALL_RETURNS = ["value_estimate", "log_prob", "monte_carlo", "advantage", "truncated", "episode_end", "agent"]


def make(environment: Any = "CartPole-v1", **changes: Any) -> SampleManager:
    given = {
        "model": QNet,
        "num_parallel": 4,
        "total_steps": 200,
        "action_sampling_type": "epsilon_greedy",
        "num_steps": None if "num_episodes" in changes else 50,
        **changes,
    }
    return SampleManager(environment=environment, **given)


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(got[name], column, err_msg=name)


@pytest.mark.parametrize(("size", "loaded"), [(2, [0]), (300, [0, 1])])
def test_a_runner_loads_the_replay_buffer_only_to_send_frames_once(size: int, loaded: list[int]) -> None:
    class Loaded(gymnasium.Env[Any, Any]):  # travels by value: a runner imports no module of the tests
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (size,), np.float32), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return self.observe(), {}

        def step(self, action: Any) -> Any:
            return self.observe(), 1.0, False, False, {}

        def observe(self) -> Any:
            return np.full(size, "really.replay" in sys.modules, np.float32)

    with make(Loaded, num_workers=1) as manager:
        rows = [manager.get_data()["state"] for _ in range(3)]
    assert list(np.unique(rows)) == loaded


def test_rows_equal_those_of_a_plain_environment_with_the_same_actions() -> None:
    with make(seed=5, num_parallel=3, total_steps=900, num_steps=300, returns=["agent"]) as manager:
        data = manager.get_data()
        entropy = manager._builder.entropy
    for agent in range(3):
        rows = {name: column[data["agent"] == agent] for name, column in data.items()}
        env = gymnasium.make("CartPole-v1")
        state, _ = env.reset(seed=seed_of(agent_seed(entropy, agent, ENVIRONMENT_STREAM)))
        for at in range(300):
            np.testing.assert_array_equal(rows["state"][at], state)
            state, reward, terminated, truncated, _ = env.step(int(rows["action"][at]))
            np.testing.assert_array_equal(rows["state_new"][at], state)
            assert rows["reward"][at] == reward
            assert rows["terminal"][at] == terminated
            assert rows["not_done"][at] == (not (terminated or truncated))
            if terminated or truncated:
                state, _ = env.reset()


@pytest.mark.parametrize("rollout", [{"num_steps": 20}, {"num_episodes": 2}])
def test_a_seeded_run_repeats_for_any_number_of_processes(rollout: dict[str, int]) -> None:
    def run(**changes: Any) -> list[dict[str, np.ndarray]]:
        given = {"seed": 11, "model_kwargs": {"value": True}, "returns": ALL_RETURNS, "num_parallel": 5, **rollout}
        with make(**given, **changes) as manager:
            manager.initialize_buffer(500, ["state", "action"])
            found = [manager.get_data(), manager.get_data(total_steps=333)]
            manager.collect(100)
            return [*found, manager.sample(64)]

    expected = run(use_ray=False)
    for changes in ({"num_workers": 1}, {"num_workers": 2}, {"use_ray": False, "num_workers": 5}):
        for got, wanted in zip(run(**changes), expected, strict=True):
            assert_equal(got, wanted)


@pytest.mark.parametrize("num_parallel", [1, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_rows_are_the_same_whether_exploring_steps_ask_the_network(epsilon: float, num_parallel: int) -> None:
    found, asked = [], []
    for returns in ([], ["log_prob"]):  # log-probabilities need the outputs of every step
        with make(
            seed=3, use_ray=False, num_workers=1, num_parallel=num_parallel, epsilon=epsilon, returns=returns
        ) as manager:
            manager.get_data()
            stepper = manager._fleet.workers[0].runner._stepper
            forward, calls = stepper.forward, []
            stepper.forward = lambda leaves, forward=forward, calls=calls: (calls.append(1), forward(leaves))[1]
            found.append(manager.get_data(total_steps=600 * num_parallel))
            asked.append(len(calls))
    assert_equal({name: found[1][name] for name in found[0]}, found[0])
    steps = len(found[0]["reward"]) // num_parallel
    assert asked[1] == steps
    if epsilon == 1.0:
        assert asked[0] == 1, "the first step"
    else:
        assert asked[0] == pytest.approx((1.0 - epsilon**num_parallel) * steps, abs=0.1 * steps)


class NotFinite(Counter):
    """A counter whose observation is NaN at step 7."""

    def step(self, action: int) -> Any:
        observation, *others = super().step(action)
        return (observation * np.nan if observation[0] == 7 else observation), *others


def test_a_step_that_explores_finds_an_observation_that_is_not_finite() -> None:
    with (
        make(NotFinite, use_ray=False, epsilon=1.0) as manager,
        pytest.raises(EnvironmentFailedError, match=r"expected finite numbers in 'state'.*got NaN"),
    ):
        manager.get_data()


def test_different_seeds_differ() -> None:
    found = []
    for seed in (1, 2):
        with make(seed=seed, use_ray=False) as manager:
            found.append(manager.get_data()["state"])
    assert not np.array_equal(*found)


def test_the_fewest_whole_results_are_delivered() -> None:
    with make(num_parallel=4, num_steps=30, total_steps=100, returns=["agent"], remote_min_returns=1) as manager:
        for _ in range(3):
            assert len(manager.get_data()["reward"]) == 120
        assert len(manager.get_data(total_steps=61)["reward"]) == 90
        assert manager.info()["dropped_rows"] == 0


def test_remote_min_returns_counts_agents() -> None:
    with make(num_steps=5, total_steps=1, remote_min_returns=3, returns=["agent"]) as manager:
        data = manager.get_data()
    assert len(np.unique(data["agent"])) == 3


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    with make(Counter, env_config={"length": 10, "truncate": True}, returns=["truncated"], use_ray=False) as manager:
        data = manager.get_data()
    assert data["terminal"].sum() == 0
    np.testing.assert_array_equal(data["truncated"], data["state_new"][:, 0] == 10)
    np.testing.assert_array_equal(data["not_done"], 1 - data["truncated"])
    np.testing.assert_array_equal(data["state_new"], data["state"] + 1)


def test_monte_carlo_and_advantages_against_a_slow_reference() -> None:
    given = {"returns": ALL_RETURNS, "gamma": 0.9, "gae_lambda": 0.8, "model": Policy, "use_ray": False}
    given |= {"action_sampling_type": "discrete_policy", "num_steps": 25, "total_steps": 400}
    with make(Counter, env_config={"length": 7, "truncate": True}, **given) as manager:
        data = manager.get_data()
        after = np.asarray(manager.get_agent().v(data["state_new"]))
    assert data["truncated"].sum() > 10
    gain, advantage = 0.0, 0.0
    for at in reversed(range(len(data["reward"]))):
        if data["terminal"][at]:
            next_value, gain, advantage = 0.0, 0.0, 0.0
        else:
            next_value = after[at]
            if data["episode_end"][at]:
                gain, advantage = next_value, 0.0
        gain = data["reward"][at] + 0.9 * gain
        delta = data["reward"][at] + 0.9 * next_value - data["value_estimate"][at]
        advantage = delta + 0.9 * 0.8 * advantage
        assert data["monte_carlo"][at] == pytest.approx(gain, rel=1e-4, abs=1e-5)
        assert data["advantage"][at] == pytest.approx(advantage, rel=1e-3, abs=1e-5)


def test_episode_end_marks_ends_and_cuts() -> None:
    given = {"returns": ["episode_end", "truncated", "agent"], "num_steps": 25, "use_ray": False}
    with make(Counter, env_config={"length": 10}, **given) as manager:
        data = manager.get_data()
    cut = np.arange(len(data["reward"])) % 25 == 24
    np.testing.assert_array_equal(data["episode_end"], (data["not_done"] == 0) | cut)


def test_discrete_actions_include_the_spaces_start() -> None:
    with make(Counter, env_config={"start": 3}, use_ray=False) as manager:
        data = manager.get_data()
    assert set(data["action"]) == {3, 4}
    np.testing.assert_array_equal(data["reward"], data["action"])


def test_settings_apply_from_the_next_row() -> None:
    with make(epsilon=1.0) as manager:
        assert set(manager.get_data()["action"]) == {0, 1}
        manager.set_epsilon(0.0)
        data = manager.get_data()
        np.testing.assert_array_equal(data["action"], manager.get_agent().act(data["state"], greedy=True))


def test_several_managers_on_two_cpus() -> None:
    managers = [make(num_parallel=2) for _ in range(3)]
    try:
        for manager in managers:
            assert len(manager.get_data()["reward"]) == 200
    finally:
        for manager in managers:
            manager.close()


def test_a_deleted_manager_releases_its_runners() -> None:
    manager = make()
    manager.get_data()
    processes = [Path("/proc") / str(runner["pid"]) for runner in manager.info()["runners"]]
    assert len(processes) == 2
    assert all(process.exists() for process in processes)
    del manager
    gc.collect()
    deadline = time.monotonic() + 10
    while any(process.exists() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(process.exists() for process in processes)


def test_a_call_does_not_wait_for_a_slow_agent_which_delivers_later(tmp_path: Path) -> None:
    token = tmp_path / "token"
    given = {"num_parallel": 2, "num_workers": 2, "num_steps": 10, "total_steps": 40, "remote_min_returns": 1}
    with make(SlowAlone, env_config={"token": str(token), "seconds": 0.3}, returns=["agent"], **given) as manager:
        manager.get_data()
        token.touch()
        start = time.monotonic()
        first = manager.get_data()
        assert time.monotonic() - start < 4
        assert len(first["reward"]) >= 40
        agents = set(first["agent"])
        while len(agents) < 2:
            assert time.monotonic() - start < 30
            agents |= set(manager.get_data()["agent"])


def test_a_time_out_without_results_names_the_slowest_and_the_manager_recovers(tmp_path: Path) -> None:
    token = tmp_path / "token"
    given = {"num_parallel": 1, "num_steps": 10, "total_steps": 10, "remote_time_out": 1.0}
    with make(SlowAlone, env_config={"token": str(token), "seconds": 60}, **given) as manager:
        manager.get_data()
        token.touch()
        expected = r"(?s)within 1.0 s, got none; the slowest is runner 0 \(agents 0.*'SlowAlone', step 0 .*time.sleep"
        with pytest.raises(RunnerTimeoutError, match=expected):
            manager.get_data()
        manager.kwargs["total_steps"] = 20
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert len(manager.get_data()["reward"]) == 20
                break
            except RunnerTimeoutError:
                continue
        else:
            pytest.fail("the manager did not recover")


@pytest.mark.parametrize("use_ray", [True, False])
@pytest.mark.parametrize(("at", "verb"), [(0, "reset"), (4, "step")])
def test_an_environment_that_raises(use_ray: bool, at: int, verb: str) -> None:
    def collect() -> None:
        with make(Raising, env_config={"at": at}, use_ray=use_ray) as manager:
            manager.get_data()

    with pytest.raises(EnvironmentFailedError) as caught:
        collect()
    message = str(caught.value)
    assert verb in message
    assert "OSError: the simulator" in message
    assert 'raise OSError("the simulator' in message, "the original traceback"


class NaN(keras.Model):
    """Outputs NaN for states above 5."""

    def __init__(self) -> None:
        super().__init__()
        self.q = keras.layers.Dense(2)

    def call(self, x: Any) -> dict[str, Any]:
        return {"q_values": self.q(x) + keras.ops.where(x > 5, np.nan, 0.0)}


@pytest.mark.parametrize("use_ray", [True, False])
def test_nan_from_the_model_names_output_and_runner(use_ray: bool) -> None:
    with (
        make(Counter, model=NaN, use_ray=use_ray, epsilon=0.0) as manager,  # steps that explore may not ask the model
        pytest.raises(ModelError, match=r"'q_values': expected finite numbers, got nan.*runner [01]"),
    ):
        manager.get_data()


def test_a_closed_manager_raises() -> None:
    manager = make()
    manager.close()
    manager.close()
    with pytest.raises(ReallyError, match=r"close\(\) was called"):
        manager.get_data()


def test_nothing_is_left_in_the_object_store() -> None:
    from ray._private.internal_api import memory_summary

    def stored() -> str:
        summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        return next(line for line in summary.splitlines() if "Plasma memory usage" in line)

    with make(returns=["agent"]) as manager:
        manager.initialize_buffer(1000)
        for _ in range(2):
            data = manager.get_data(total_steps=20_000)
            manager.collect(20_000)
            assert len(data["reward"]) == 20_000
            deadline = time.monotonic() + 5
            while not stored().startswith("Plasma memory usage 0 MiB, 0 objects") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert stored().startswith("Plasma memory usage 0 MiB, 0 objects")
            manager.set_agent([weight + 1 for weight in manager.get_agent().get_weights()])


def test_pending_orders_are_not_lost_when_model_kwargs_change(tmp_path: Path) -> None:
    """Agent 0 raises while agent 1 has an order. The rows of that order are delivered before those of the next one."""
    token = tmp_path / "token"
    token.touch()
    given = {"num_parallel": 2, "num_workers": 2, "use_ray": False, "total_steps": 40, "num_steps": 20}
    with make(RaisingOnce, env_config={"token": str(token)}, returns=["agent"], **given) as manager:
        with pytest.raises(EnvironmentFailedError, match="broke down"):
            manager.get_data()
        manager.kwargs["model_kwargs"] = {"hidden": 8}
        data = [manager.get_data(), manager.get_data()]
        delivered = manager.info()["delivered_rows"]
    states = np.concatenate([part["state"][part["agent"] == 1, 0] for part in data])
    np.testing.assert_array_equal(states, np.arange(len(states)))
    assert delivered == sum(len(part["reward"]) for part in data)
