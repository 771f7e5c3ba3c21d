"""Normalised observations and rewards against a slow reference, over policy versions, processes and saved models."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from really import EnvironmentFailedError, ModelError, ReallyError, SampleManager
from really.collectors.seeds import EVALUATION_STREAM
from really.data.moments import Moments
from really.data.normalisation import Normalisation, NormalisationOptions
from really.data.spaces import observation_leaves
from tests.crafting import measure_again
from tests.environments import Counter, RaisingOnce
from tests.models import ActorCritic, DictModel, Policy, QNet
from tests.scripts import LongDay
from tests.walks import Nested

BOTH = {"normalize_observations": True, "normalize_rewards": True}
RETURNS = ["agent", "truncated", "value_estimate", "monte_carlo", "policy_version"]


def make(environment: Any = "CartPole-v1", **changes: Any) -> SampleManager:
    given = {
        "model": QNet,
        "num_parallel": 3,
        "total_steps": 300,
        "action_sampling_type": "epsilon_greedy" if changes.get("model", QNet) is QNet else None,
        "num_steps": None if "num_episodes" in changes else 50,
        "use_ray": False,
        **changes,
    }
    return SampleManager(environment=environment, **given)


def new_weights(manager: SampleManager) -> None:
    """Sets other weights. The outputs of a model of zeros still do not depend on the state."""
    weights = manager.get_agent().get_weights()
    manager.set_agent([*weights[:-1], weights[-1] + 0.125])


# ------------------------------------------------------------------------------------------ statistics


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([(), (3,), (2, 150)]), st.sampled_from([0.0, 1e6]))
def test_moments_do_not_depend_on_how_rows_are_split_into_parts(
    seed: int, parts: int, shape: tuple[int, ...], offset: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(offset, 0.01, (60, *shape))
    cuts = np.sort(rng.integers(0, 60, parts))
    pieces = [piece for piece in np.split(rows, cuts) if len(piece)]
    measured = Moments.none(shape)
    for piece in pieces[: len(pieces) // 2]:
        measured = Moments.merge([measured, Moments.measure(piece, np.array([len(piece)]))])
    lengths = np.array([len(piece) for piece in pieces[len(pieces) // 2 :]])
    measured = Moments.merge([measured, Moments.measure(rows[60 - lengths.sum() :], lengths)])
    assert (measured.count, measured.mean.shape, measured.variance.shape) == (60, shape, shape)
    np.testing.assert_allclose(measured.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(measured.variance, rows.var(axis=0), rtol=1e-6 if offset else 1e-12)


def test_moments_of_a_set_do_not_depend_on_other_sets_to_the_bit() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (700, 5)).astype(np.float32)
    alone = Moments.measure(rows[123:423], np.array([300]))
    together = Moments.measure(rows, np.array([123, 300, 277]))
    np.testing.assert_array_equal(alone.mean[0], together.mean[1])
    np.testing.assert_array_equal(alone.squares[0], together.squares[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_columns_and_batches_are_normalised_to_the_same_numbers(dtype: type) -> None:
    rng = np.random.default_rng(1)
    leaves = observation_leaves(spaces.Box(-np.inf, np.inf, (7,), dtype))
    rows = rng.normal(50, 3, (20_000, 7)).astype(dtype)
    options = NormalisationOptions(True, 1.5, False, 1.0, (-np.inf, np.inf))
    moments = Moments.merge([Moments.measure(rows, np.array([len(rows)]))])
    normalisation = Normalisation(options, leaves, {"state": moments})
    (expected,) = normalisation.observations([rows])
    columns = {"state": rows.copy(), "state_new": rows[::-1].copy()}
    normalisation.normalise_columns(columns)
    assert columns["state"].dtype == expected.dtype == dtype
    np.testing.assert_array_equal(columns["state"], expected)
    np.testing.assert_array_equal(columns["state_new"], expected[::-1])
    exact = (rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)) / rows.std(axis=0, dtype=np.float64)
    precision = {"rtol": 1e-3, "atol": 1e-4} if dtype == np.float16 else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(expected, exact.clip(-1.5, 1.5), **precision)
    assert np.abs(expected).max() == 1.5


# ------------------------------------------------------------------------------------------ delivered columns


class Reference:
    """The statistics of Welford (1962) and Stable-Baselines3's VecNormalize, row by row, frozen on request."""

    def __init__(self, gamma: float = 0.99) -> None:
        self.gamma = gamma
        self.seen: list[np.ndarray] = []
        self.returns: list[float] = []
        self.running: dict[int, float] = {}
        self.freeze()

    def freeze(self) -> None:
        self.mean = np.mean(self.seen, axis=0) if self.seen else 0.0
        self.deviation = np.sqrt(np.var(self.seen, axis=0) + 1e-8) if self.seen else 1.0
        self.return_deviation = np.sqrt(np.var(self.returns) + 1e-8) if self.seen else 1.0

    def expect(self, raw: dict[str, np.ndarray], clip: float = 10.0) -> dict[str, np.ndarray]:
        """Returns the expected columns for raw columns, and measures the raw columns."""
        for state, reward, agent, not_done in zip(
            raw["state"], raw["reward"], raw["agent"], raw["not_done"], strict=True
        ):
            self.seen.append(state.astype(np.float64))
            self.running[agent] = float(reward) + self.gamma * self.running.get(agent, 0.0)
            self.returns.append(self.running[agent])
            self.running[agent] *= float(not_done)
        return {
            "reward": (raw["reward"] / self.return_deviation).clip(-clip, clip),
            **{name: ((raw[name] - self.mean) / self.deviation).clip(-clip, clip) for name in ("state", "state_new")},
        }


# Actions that do not depend on the observations: all random, or with a mean from zero weights.
RANDOM = {"epsilon": 1.0, "seed": 3}
PENDULUM = {"model": ActorCritic, "model_kwargs": {"dimensions": 1}, "seed": 3}


def zeros() -> list[np.ndarray]:
    with make("Pendulum-v1", **PENDULUM) as manager:
        return [np.zeros_like(weight) for weight in manager.get_agent().get_weights()]


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("CartPole-v1", {**RANDOM, "num_steps": 40}),
        ("CartPole-v1", {**RANDOM, "num_episodes": 2, "total_steps": 1}),
        ("CartPole-v1", {**RANDOM, "num_steps": 40, "num_parallel": 9}),
        ("Pendulum-v1", {**PENDULUM, "num_steps": 150}),
        ("Pendulum-v1", {**PENDULUM, "num_episodes": 1, "total_steps": 1}),
    ],
)
def test_rows_are_normalised_by_the_statistics_of_earlier_versions(environment: str, options: dict[str, Any]) -> None:
    if environment == "Pendulum-v1":
        options = {**options, "weights": zeros()}
    reference = Reference()
    with (
        make(environment, returns=["agent"], **options) as raw,
        make(environment, returns=["agent"], **BOTH, **options) as normalised,
    ):
        for version in range(3):
            for _ in range(2):
                before, after = raw.get_data(), normalised.get_data()
                for name, expected in reference.expect(before).items():
                    assert after[name].dtype == before[name].dtype
                    np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)
                for name in before.keys() - {"state", "state_new", "reward"}:
                    np.testing.assert_array_equal(after[name], before[name])
            reference.freeze()
            for manager in (raw, normalised):
                new_weights(manager)
            found = normalised.info()["normalization"]
            assert found["state"]["count"] == len(reference.seen)
            np.testing.assert_allclose(found["state"]["mean"], reference.mean, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(found["reward"]["variance"], np.var(reference.returns), rtol=1e-10)
            assert normalised.info()["policy_version"] == version + 1


def test_the_learner_sees_what_the_policy_saw() -> None:
    options = {"model": Policy, "action_sampling_type": "discrete_policy", "returns": [*RETURNS, "log_prob"]}
    mean, deviation, seen = 0.0, 1.0, []
    with make(gamma=0.9, seed=3, **BOTH, **options) as manager:
        for _ in range(3):
            data = manager.get_data()
            agent = manager.get_agent()
            np.testing.assert_allclose(agent.v(data["state"]), data["value_estimate"], rtol=1e-4, atol=1e-5)
            log_prob = agent.flowing_log_prob(data["state"], data["action"])
            np.testing.assert_allclose(log_prob, data["log_prob"], rtol=1e-4, atol=1e-5)
            gain, after = 0.0, np.asarray(agent.v(data["state_new"]))
            for at in reversed(range(len(after))):
                if at % 50 == 49 or not data["not_done"][at]:
                    gain = 0.0 if data["terminal"][at] else after[at]
                gain = data["reward"][at] + 0.9 * gain
                assert data["monte_carlo"][at] == pytest.approx(gain, rel=1e-4, abs=1e-5)
            seen.extend(data["state"] * deviation + mean)
            new_weights(manager)
            statistics = manager.info()["normalization"]["state"]
            mean, deviation = np.array(statistics["mean"]), np.sqrt(np.array(statistics["variance"]) + 1e-8)
            np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(deviation, np.std(seen, axis=0), rtol=1e-4)


def test_new_statistics_take_effect_when_the_same_weights_are_set_again() -> None:
    with make(**BOTH) as manager:
        manager.get_data()
        manager.set_agent(manager.get_agent().get_weights())
        assert manager.info()["policy_version"] == 1
        assert manager.info()["normalization"]["state"]["count"] == 300
        manager.set_agent(manager.get_agent().get_weights())
        assert manager.info()["policy_version"] == 1
    with make() as manager:
        manager.get_data()
        manager.set_agent(manager.get_agent().get_weights())
        assert manager.info()["policy_version"] == 0
        assert "normalization" not in manager.info()


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"reward_scale": 0.1}, 0.0, 0.1),
        ({"reward_clip": 0.5}, 0.0, 0.5),
        ({"reward_clip": (0.25, 2)}, 0.25, 1.0),
        ({"reward_scale": 3.0, "reward_clip": (-np.inf, 2.0)}, 0.0, 2.0),
    ],
)
def test_rewards_are_scaled_and_then_clipped(options: dict[str, Any], low: float, high: float) -> None:
    with make(Counter, returns=["monte_carlo"], gamma=0.5, seed=1, **options) as manager:
        data = manager.get_data()
        np.testing.assert_array_equal(data["reward"], np.where(data["action"] == 1, high, low).astype(np.float32))
        np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
        gains = data["reward"][:-1] + 0.5 * data["monte_carlo"][1:]
        inside = (data["not_done"] == 1)[:-1] & (np.arange(len(gains)) % 50 != 49)
        np.testing.assert_allclose(data["monte_carlo"][:-1][inside], gains[inside], rtol=1e-6)
        measures = manager.test(5, 4, evaluation_measure="time_and_reward")
    assert all(reward == round(reward) for reward in measures[1]), "the environment's own: actions, added up"
    assert max(measures[1]) > 3


def test_rewards_are_divided_then_scaled_then_clipped() -> None:
    with (
        make(Counter, normalize_rewards=True, **RANDOM) as one,
        make(Counter, normalize_rewards=True, reward_scale=2.0, reward_clip=1.0, **RANDOM) as other,
    ):
        for _ in range(2):
            expected, got = one.get_data()["reward"], other.get_data()["reward"]
            np.testing.assert_allclose(got, np.minimum(2 * expected, 1.0), rtol=1e-6)
            for manager in (one, other):
                new_weights(manager)
        assert set(expected) != {0.0, 1.0}


def test_only_floating_point_leaves_are_normalised() -> None:
    space = spaces.Dict(
        {"speed": spaces.Box(-np.inf, np.inf, (3,), np.float64), "image": spaces.Box(0, 255, (8, 8, 1), np.uint8)}
    )
    with make(Nested, model=DictModel, env_config={"space": space}, normalize_observations=True) as manager:
        manager.get_data()
        new_weights(manager)
        data = manager.get_data()
        agent = manager.get_agent()
    assert (data["state.speed"].dtype, data["state.image"].dtype) == (np.float64, np.uint8)
    assert set(np.unique(data["state.image"])) == {0, 1, 2, 3, 4}
    assert abs(data["state.speed"].mean()) < 1e-6
    assert data["state.speed"].std() == pytest.approx(1.0, rel=1e-3)
    raw = {"speed": np.full(3, 4.0), "image": np.full((8, 8, 1), 4, np.uint8)}
    shown = agent.normalize(raw)
    last = data["state.image"][:, 0, 0, 0] == 4
    np.testing.assert_array_equal(shown["speed"], data["state.speed"][last][0])
    assert agent.act(raw).shape == ()


def test_returns_start_at_zero_with_the_episodes_after_a_failure(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with make(RaisingOnce, normalize_rewards=True, env_config={"token": str(token)}, num_parallel=1) as manager:
        rewards = [manager.get_data(total_steps=50)["reward"]]
        token.touch()
        with pytest.raises(EnvironmentFailedError, match="the simulator broke down"):
            manager.get_data(total_steps=50)
        rewards.append(manager.get_data(total_steps=50)["reward"])
        manager.set_agent(manager.get_agent().get_weights())
        moments = manager._statistics.frozen["reward"]
    returns = []
    for part in rewards:
        total = 0.0
        for reward in part:
            total = float(reward) + 0.99 * total
            returns.append(total)
    assert (moments.count, set(np.unique(rewards))) == (100, {0.0, 1.0})
    np.testing.assert_allclose(moments.variance, np.var(returns), rtol=1e-10)


# ------------------------------------------------------------------------------------------ the agent, and test()


@pytest.mark.parametrize("options", [{}, {"normalize_observations": True, "observation_clip": 2.0}])
def test_an_agent_normalises_the_observations_of_the_environment_itself(options: dict[str, Any]) -> None:
    with make(epsilon=0.0, seed=3, **options) as manager:
        manager.get_data()
        new_weights(manager)
        data, agent = manager.get_data(), manager.get_agent()
        np.testing.assert_array_equal(agent.act(data["state"], normalized=True), data["action"])
        raw = np.random.default_rng(0).normal(0, 0.1, (64, 4)).astype(np.float32)
        delivered = agent.normalize(raw)
        np.testing.assert_array_equal(agent.act(raw), agent.act(delivered, normalized=True))
        np.testing.assert_array_equal(agent.act(raw), np.argmax(agent.model(delivered)["q_values"], axis=-1))
        assert agent.act(raw[0]) == agent.act(raw)[0]
        np.testing.assert_array_equal(agent.normalize(raw[0]), delivered[0])
        copied = agent.copy()
        np.testing.assert_array_equal(copied.act(raw, greedy=True), agent.act(raw, greedy=True))
    if options:
        assert not np.array_equal(raw, delivered)
        assert np.abs(delivered).max() == 2.0
    else:
        assert delivered is raw


def test_an_evaluation_normalises_observations_but_not_rewards() -> None:
    with make("Pendulum-v1", **BOTH, **PENDULUM) as manager:
        manager.get_data()
        new_weights(manager)
        agent, counts = manager.get_agent(), manager.info()["normalization"]["state"]["count"]
        rewards = manager.test(30, 3, evaluation_measure="reward")
        assert manager.info()["normalization"]["state"]["count"] == counts
        new_weights(manager)
        assert manager.info()["normalization"]["state"]["count"] == counts, "nothing was measured meanwhile"
        from really.evaluation.evaluation import Evaluation

        seeds = manager._builder.seed(EVALUATION_STREAM, 1).spawn(3)
        from really.envs.make import make_batch

        envs = make_batch(manager._builder.environment, seeds)
        agent.set_weights([*agent.get_weights()[:-1], agent.get_weights()[-1] - 0.125])

        def forward(leaves: Any) -> dict[str, np.ndarray]:
            outputs = agent.model(agent.normalize(leaves[0]))
            return {name: np.asarray(value) for name, value in outputs.items()}

        evaluation = Evaluation(envs, forward, agent.policy, 3, 30)
        evaluation.run()
    np.testing.assert_allclose(rewards, evaluation.rewards, rtol=1e-4)
    assert max(rewards) < -10, "normalised, thirty of them would be near zero"


# ------------------------------------------------------------------------------------------ processes


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("rollout", [{"num_steps": 20}, {"num_episodes": 2}])
def test_a_seeded_run_repeats_to_the_bit_for_any_number_of_processes(rollout: dict[str, int]) -> None:
    def run(**changes: Any) -> list[dict[str, np.ndarray]]:
        options = {"seed": 11, "model_kwargs": {"value": True}, "returns": RETURNS, "num_parallel": 5, **rollout}
        found = []
        with make(**BOTH, **options, **changes) as manager:
            for rows in (200, 333, 100):
                found.append(manager.get_data(total_steps=rows))
                new_weights(manager)
            found += [{part: np.asarray(v)} for k in manager._statistics.frozen.values() for part, v in vars(k).items()]
        return found

    expected = run()
    assert len(expected) == 9
    for changes in ({"num_workers": 2}, {"num_workers": 5}, {"use_ray": True}, {"use_ray": True, "num_workers": 1}):
        for got, wanted in zip(run(**changes), expected, strict=True):
            assert list(got) == list(wanted)
            for name, column in wanted.items():
                np.testing.assert_array_equal(got[name], column, err_msg=name)


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("use_ray", [True, False])
def test_in_the_background_each_version_has_its_own_statistics(use_ray: bool) -> None:
    with make(Counter, normalize_observations=True, returns=["policy_version"], use_ray=use_ray) as manager:
        manager.initialize_buffer(200_000, ["state", "policy_version"])
        with manager.collect_in_background(min_rows=1000) as background:
            for _ in range(3):
                goal, deadline = background.rows + 20_000, time.monotonic() + 60
                while background.rows < goal and time.monotonic() < deadline:
                    time.sleep(0.01)
                new_weights(manager)
        rows = manager.buffer.take(np.arange(len(manager.buffer)))
        manager.set_agent(manager.get_agent().get_weights())
        assert manager.info()["normalization"]["state"]["count"] == len(manager.buffer)
    for version in range(3):
        shown = np.unique(rows["state"][rows["policy_version"] == version])
        assert len(shown) == 10, "ten counts, each one number a version"
    np.testing.assert_array_equal(np.unique(rows["state"][rows["policy_version"] == 0]), np.arange(10))


@pytest.mark.usefixtures("ray_runtime")
def test_a_restarted_runner_normalises_as_before() -> None:
    given = {"env_config": {"length": 10**6}, "use_ray": True, "num_workers": 2, "returns": ["policy_version"]}
    given["remote_min_returns"] = 3  # else the other runner may deliver all rows of the call
    with make(Counter, normalize_observations=True, observation_clip=np.inf, **given) as manager:
        manager.get_data()
        new_weights(manager)
        moments = manager._statistics.frozen["state"]
        os.kill(manager.info()["runners"][0]["pid"], signal.SIGKILL)
        data = manager.get_data(total_steps=900)
        assert sum(runner["restarts"] for runner in manager.info()["runners"]) == 1
        counts = data["state"] * np.sqrt(moments.variance + 1e-8) + moments.mean
        np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
        assert counts.min() == pytest.approx(0.0, abs=1e-3), "the new runner begins new episodes"
        assert set(data["policy_version"]) == {1}


def test_a_chunk_in_several_messages_is_measured_once(long_day: LongDay) -> None:
    assert long_day.done.returncode == 0, long_day.done.stderr
    assert long_day.said("normalised") == ["2000"]
    assert long_day.said("measured") == ["2000 True True"]


# ------------------------------------------------------------------------------------------ saved models


def test_statistics_are_saved_with_the_model(tmp_path: Path) -> None:
    with make(**BOTH, seed=1) as manager:
        manager.get_data()
        new_weights(manager)
        folder = manager.save_model(tmp_path, 4)
        rewards, expected = manager.test(200, 5), manager._statistics.frozen
        raw = np.random.default_rng(0).normal(0, 0.1, (64, 4))
        actions = manager.get_agent().act(raw, greedy=True)
        manager.get_data()
    with h5py.File(Path(folder) / "model.weights.h5") as file:
        assert sorted(file["statistics/0"]) == ["count", "mean", "squares"]
    meta = json.loads((Path(folder) / "meta.json").read_text())
    assert meta["statistics"] == [{"name": "state", "shape": [4]}, {"name": "reward", "shape": []}]
    with make(**BOTH, seed=1) as manager:
        manager.get_data()
        agent, epoch = manager.load_model(tmp_path)
        assert epoch == 4
        for name, moments in manager._statistics.frozen.items():
            for part in ("count", "mean", "squares"):
                np.testing.assert_array_equal(getattr(moments, part), getattr(expected[name], part))
        np.testing.assert_array_equal(agent.act(raw, greedy=True), actions)
        assert manager.test(200, 5) == rewards
        np.testing.assert_array_equal(agent.act(manager.get_data()["state"], normalized=True).shape, (300,))
        new_weights(manager)
        assert manager._statistics.frozen["state"].count == 600, "300 were saved, and go on being added to"


def test_a_model_saved_without_statistics_loads_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with make() as manager:
        folder = Path(manager.save_model(tmp_path, 1))
        weights = manager.get_agent().get_weights()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["statistics"] == []
    with make(**BOTH) as manager:
        manager.get_data()
        manager.load_model(tmp_path)
        assert "saved without statistics of ['reward', 'state']" in caplog.text
        assert manager.info()["normalization"]["state"]["count"] == 300
        np.testing.assert_array_equal(manager.get_agent().get_weights()[0], weights[0])
    caplog.clear()
    with make() as manager:
        manager.load_model(tmp_path)
    assert not caplog.text


def test_a_model_without_reward_statistics_loads(tmp_path: Path) -> None:
    with make(normalize_rewards=True) as manager:
        manager.get_data()
        new_weights(manager)
        manager.save_model(tmp_path, 1)
    with make(reward_scale=2.0) as manager:
        manager.load_model(tmp_path)
        assert set(manager.get_data()["reward"]) == {2.0}


def test_a_model_for_normalised_observations_needs_a_manager_that_normalises(tmp_path: Path) -> None:
    with make(normalize_observations=True) as manager:
        manager.save_model(tmp_path, 1)
    with make() as manager:
        before = manager.get_agent().get_weights()
        with pytest.raises(
            ModelError, match=r"a model for \{'state': \(4,\)\}; make the .* normalize_observations=True"
        ):
            manager.load_model(tmp_path)
        np.testing.assert_array_equal(manager.get_agent().get_weights()[0], before[0])


@pytest.mark.parametrize(
    ("part", "message"), [("mean", "got nothing"), (None, r"of shape \[4\], got float64 of \[3\]")]
)
def test_statistics_that_the_description_does_not_have_are_refused(
    tmp_path: Path, part: str | None, message: str
) -> None:
    with make(normalize_observations=True) as manager:
        folder = Path(manager.save_model(tmp_path, 1))
        with h5py.File(folder / "model.weights.h5", "r+") as file:
            del file[f"statistics/0/{part or 'mean'}"]
            if part is None:
                file["statistics/0/mean"] = np.zeros(3)
        with pytest.raises(ValueError, match=r"model.weights.h5: expected .*bytes.*, got"):
            manager.load_model(tmp_path)
        measure_again(folder)
        with pytest.raises(ValueError, match=rf"statistics of 'state': statistics/0/mean: expected .*{message}"):
            manager.load_model(tmp_path)


# ------------------------------------------------------------------------------------------ errors


class Infinite(Counter):
    """Has an infinite observation or reward in its third step."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def step(self, action: int) -> Any:
        state, reward, *rest = super().step(action)
        if self.count == 3:
            return (state * np.inf, reward, *rest) if self.what == "state" else (state, np.inf, *rest)
        return (state, reward, *rest)


@pytest.mark.parametrize("what", ["state", "reward"])
def test_infinite_numbers_are_refused(what: str) -> None:
    with (
        make(Infinite, env_config={"what": what}, **BOTH) as manager,
        pytest.raises(EnvironmentFailedError, match=rf"agent 0, step [23] .* finite numbers in '{what}', as it is"),
    ):
        manager.get_data()
    with make(Infinite, env_config={"what": "reward"}, reward_clip=1.0) as manager:
        assert set(manager.get_data()["reward"]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Box(0, 255, (8, 8, 1), np.uint8), "'state' of uint8"),
        (spaces.Dict({"a": spaces.Discrete(20), "b": spaces.MultiBinary(3)}), "'state.a' of int64, 'state.b' of int8"),
    ],
)
def test_observations_without_floating_point_numbers_cannot_be_normalised(space: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"expected an observation space with floating-point .* got {shown}; integ"):
        make(Nested, env_config={"space": space}, normalize_observations=True)


def test_normalisation_cannot_be_changed_after_construction() -> None:
    with make(**BOTH) as manager, pytest.raises(ReallyError, match="got 'reward_scale'"):
        manager.kwargs["reward_scale"] = 2.0
