"""Batches of plain instances for every API, compared with the environment itself, stepped by hand."""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from really.data.spaces import flatten, infer_space, to_gymnasium
from really.envs.make import make_batch
from really.envs.real_gym import import_gym
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, InvalidTypeError, InvalidValueError, MissingPackageError

gym = import_gym()
GymCartPole = importlib.import_module("gym.envs.classic_control").CartPoleEnv


class Counter(gymnasium.Env):
    """Observes [seed, episode, step]; episodes last 2, 3, 4, 2, ... steps; every second one is truncated."""

    observation_space = spaces.Box(-1, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, fail_at: int | None = None, wrong: Any = None) -> None:
        self.episode, self.seed, self.fail_at, self.wrong = -1, -1, fail_at, wrong
        self.actions: list[Any] = []

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        self.episode, self.time = self.episode + 1, 0
        return self._show(), {}

    def step(self, action):
        self.actions.append(action)
        self.time += 1
        if self.fail_at == self.time:
            if self.wrong is None:
                raise KeyError("gone")
            return self.wrong
        over = self.time == 2 + self.episode % 3
        return self._show(), float(action), over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}

    def _show(self):
        return np.array([self.seed, self.episode, self.time], np.float64)


class OldCounter:
    """The API of gym before 0.26: four values, `seed` is a method, `info` has the time limit; observes a list."""

    action_space = spaces.Discrete(2)

    def __init__(self, lengths: tuple[int, ...] = (2, 3), cuts: bool = True) -> None:
        self.lengths, self.cuts, self.episode, self.seeded = lengths, cuts, -1, -1

    def seed(self, seed):
        self.seeded = seed

    def reset(self):
        self.episode, self.time = self.episode + 1, 0
        return [float(self.episode), 0.0]

    def step(self, action):
        self.time += 1
        done = self.time == self.lengths[self.episode % len(self.lengths)]
        info = {"TimeLimit.truncated": self.episode % 2 == 1} if done and self.cuts else {}
        return [float(self.episode), float(self.time)], 1, done, info


class Nested(gymnasium.Env):
    """Observes a Dict that holds a Tuple."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(0, 9, (2,), np.float32), "rest": spaces.Tuple([spaces.Discrete(9), spaces.MultiBinary(3)])}
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._show(), {}

    def step(self, action):
        self.time += 1
        return self._show(), float(action.sum()), self.time == 3, False, {}

    def _show(self):
        return {"place": np.full(2, self.time, np.float32), "rest": (self.time, np.array([1, 0, 1], np.int8))}


def seeds(number: int, entropy: int = 7) -> list[np.random.SeedSequence]:
    return np.random.SeedSequence(entropy).spawn(number)


def draw(space: spaces.Space, rng: np.random.Generator, number: int) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.start, space.start + space.n, number)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (number, *space.shape))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, (number, *space.shape)).astype(np.int8)
    return rng.uniform(space.low, space.high, (number, *space.shape)).astype(space.dtype)


def roll(batch, steps: int, rng: np.random.Generator, share: float = 1.0) -> list[list[dict[str, Any]]]:
    """Steps the batch; returns the rows of each environment, as a runner would write them."""
    rows: list[list[dict[str, Any]]] = [[] for _ in range(batch.num_envs)]
    batch.reset()
    for _ in range(steps):
        active = np.flatnonzero(rng.random(batch.num_envs) < share) if share < 1 else None
        shown = [leaf.copy() for leaf in batch.observations]
        actions = draw(batch.action_space, rng, batch.num_envs)
        batch.step(actions, active)
        for i in range(batch.num_envs) if active is None else active:
            rows[i].append(
                {
                    "state": [leaf[i] for leaf in shown],
                    "action": actions[i],
                    "state_new": [leaf[i].copy() for leaf in batch.final_observations],
                    "reward": batch.rewards[i],
                    "terminated": batch.terminated[i],
                    "truncated": batch.truncated[i],
                }
            )
    batch.close()
    return rows


def by_hand(env: Any, seed: np.random.SeedSequence, rows: list[dict[str, Any]], space: spaces.Space) -> int:
    """Steps `env` with the actions of the rows and compares; returns the number of episodes that ended."""
    state, _ = env.reset(seed=int(seed.generate_state(1)[0] >> 1))
    ends = 0
    for row in rows:
        action = row["action"].item() if isinstance(env.action_space, spaces.Discrete) else row["action"]
        state_new, reward, terminated, truncated, _ = env.step(action)
        for name, value in (("state", state), ("state_new", state_new)):
            for got, expected in zip(row[name], flatten(space, value), strict=True):
                np.testing.assert_array_equal(got, expected)
        assert row["reward"] == np.float32(reward)
        assert (row["terminated"], row["truncated"]) == (terminated, truncated)
        state = env.reset()[0] if terminated or truncated else state_new
        ends += terminated or truncated
    return ends


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"max_episode_steps": 12}),
        ("FrozenLake-v1", {"is_slippery": True}),
        ("Blackjack-v1", {}),
        ("Pendulum-v1", {}),
        ("MountainCarContinuous-v0", {"max_episode_steps": 50}),
        ("Acrobot-v1", {"max_episode_steps": 40}),
        ("ALE/Pong-v5", {"max_episode_steps": 50}),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_batch_gives_the_transitions_of_gymnasium(name, config, share):
    spec = EnvironmentSpec(name, config)
    rows = roll(make_batch(spec, seeds(3), vector="plain"), 220, np.random.default_rng(1), share)
    envs = [gymnasium.make(name, **config) for _ in range(3)]
    space = spec.probe().observation_space
    ends = [by_hand(env, seed, part, space) for env, seed, part in zip(envs, seeds(3), rows, strict=True)]
    assert min(ends) >= (0 if name == "Pendulum-v1" and share < 1 else 1)


def test_data_are_the_same_for_any_split_into_batches():
    spec = EnvironmentSpec("FrozenLake-v1")
    actions = np.random.default_rng(3).integers(0, 4, (200, 5))

    def rewards_and_states(numbers):
        batch = make_batch(spec, [seeds(5)[i] for i in numbers])
        batch.reset()
        found = []
        for step in actions:
            batch.step(step[numbers])
            found.append([*batch.final_observations[0], *batch.rewards])
        return np.array(found).reshape(200, 2, len(numbers))

    together = rewards_and_states([0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rewards_and_states([3, 1]), together[:, :, [3, 1]])
    np.testing.assert_array_equal(rewards_and_states([4]), together[:, :, [4]])


@settings(max_examples=25, deadline=None)
@given(number=st.integers(1, 5), share=st.sampled_from([1.0, 0.5]), entropy=st.integers(0, 99))
def test_no_row_mixes_two_episodes_and_no_row_is_lost(number, share, entropy):
    batch = make_batch(EnvironmentSpec(Counter), seeds(number))
    for rows in roll(batch, 30, np.random.default_rng(entropy), share):
        expected = np.array([0.0, 0.0])
        for row in rows:
            np.testing.assert_array_equal(row["state"][0][1:], expected)
            np.testing.assert_array_equal(row["state_new"][0][1:], expected + np.array([0, 1]))
            episode, step = row["state_new"][0][1:]
            over = step == 2 + episode % 3
            assert row["terminated"] == (over and episode % 2 == 0)
            assert row["truncated"] == (over and episode % 2 == 1)
            assert row["reward"] == row["action"]
            expected = np.array([episode + 1, 0.0]) if over else row["state_new"][0][1:]


def test_resetting_some_environments_leaves_the_others_unchanged():
    batch = make_batch(EnvironmentSpec(Counter), seeds(3))
    batch.reset()
    batch.step(np.zeros(3, np.int64))
    batch.reset(np.array([1]))
    np.testing.assert_array_equal(batch.observations[0][:, 1:], [[0, 1], [1, 0], [0, 1]])
    assert len(set(batch.observations[0][:, 0])) == 3
    assert (batch.observations[0][:, 0] >= 0).all()


def test_discrete_actions_arrive_as_python_ints_with_start():
    instance = Counter()
    instance.actions = shared = []
    Counter.__deepcopy__ = lambda self, memo: self
    try:
        batch = make_batch(EnvironmentSpec(instance), seeds(1))
    finally:
        del Counter.__deepcopy__
    batch.reset()
    batch.step(np.array([-1]))
    assert [(type(action), action) for action in shared] == [(int, -1)]


def test_the_older_api_separates_truncation_from_termination():
    spec = EnvironmentSpec(OldCounter, {"lengths": (2, 3)})
    rows = roll(make_batch(spec, seeds(2)), 10, np.random.default_rng(0))
    assert [row["terminated"] for row in rows[0]] == [False, True, False, False, False, False, True, *[False] * 3]
    assert [row["truncated"] for row in rows[0]] == [False, False, False, False, True, False, False, *[False] * 2, True]
    assert [row["state_new"][0][1] for row in rows[0]] == [1, 2, 1, 2, 3, 1, 2, 1, 2, 3]
    assert [row["state"][0][1] for row in rows[0]] == [0, 1, 0, 1, 2, 0, 1, 0, 1, 2]
    assert rows[0][0]["state"][0].dtype == np.float32
    uncut = roll(make_batch(EnvironmentSpec(OldCounter, {"cuts": False}), seeds(1)), 5, np.random.default_rng(0))
    assert [row["terminated"] for row in uncut[0]] == [False, True, False, False, True]
    assert not any(row["truncated"] for row in uncut[0])


def test_the_older_api_is_seeded_once_by_its_method():
    made = []

    def factory():
        made.append(OldCounter())
        return made[-1]

    batch = make_batch(EnvironmentSpec(factory), seeds(2))
    batch.reset()
    first = [env.seeded for env in made[1:]]
    assert first == [int(seed.generate_state(1)[0] >> 1) for seed in seeds(2)]
    made[1].seeded = "untouched"
    batch.reset()
    assert made[1].seeded == "untouched"


@pytest.mark.parametrize(
    "environment",
    [
        lambda: gym.make("CartPole-v1", disable_env_checker=True),
        GymCartPole,
        GymCartPole(),
    ],
    ids=["factory", "class", "instance"],
)
def test_real_gym_gives_the_transitions_of_gymnasium(environment):
    """The CartPole of gym 0.26 has the seeds and dynamics of gymnasium's, equal in float32 up to the last bits."""
    rng = np.random.default_rng
    theirs = roll(make_batch(EnvironmentSpec(environment), seeds(2)), 120, rng(5))
    ours = roll(make_batch(EnvironmentSpec("CartPole-v1"), seeds(2), vector="plain"), 120, rng(5))
    assert sum(row["terminated"] for row in theirs[0]) > 2
    for a, b in zip(theirs[0] + theirs[1], ours[0] + ours[1], strict=True):
        np.testing.assert_allclose(a["state"][0], b["state"][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a["state_new"][0], b["state_new"][0], rtol=1e-5, atol=1e-6)
        assert a["terminated"] == b["terminated"]


@pytest.fixture
def taxi_of_gym():
    """An id in the registry of gym alone; which of gym's own ids gymnasium lacks depends on gymnasium's version."""
    gym.register("TaxiOfGym-v0", entry_point="gym.envs.toy_text:TaxiEnv", max_episode_steps=200)
    yield "TaxiOfGym-v0"
    del gym.envs.registry["TaxiOfGym-v0"]


def test_an_id_that_only_gym_knows(taxi_of_gym):
    assert taxi_of_gym not in gymnasium.registry
    spec = EnvironmentSpec(taxi_of_gym)
    probe = spec.probe()
    assert probe.action_space == spaces.Discrete(6)
    assert probe.max_episode_steps == 200
    rows = roll(make_batch(spec, seeds(1)), 201, np.random.default_rng(0))
    assert [at for at, row in enumerate(rows[0]) if row["truncated"]] == [199]


def test_a_deprecated_id_works_and_keeps_its_time_limit():
    probe = EnvironmentSpec("CartPole-v0").probe()
    assert probe.max_episode_steps == 200
    assert probe.name == "CartPole-v0"


def test_time_limit_none():
    assert EnvironmentSpec("Pendulum-v1", {"max_episode_steps": -1}).probe().max_episode_steps is None
    rows = roll(
        make_batch(EnvironmentSpec("Pendulum-v1", {"max_episode_steps": -1}), seeds(1)), 250, np.random.default_rng(0)
    )
    assert not any(row["truncated"] for row in rows[0])


def test_nested_observations_have_one_array_per_leaf():
    batch = make_batch(EnvironmentSpec(Nested()), seeds(2))
    assert [(name, leaf.shape) for name, leaf in batch.leaves.items()] == [
        (".place", (2,)),
        (".rest.0", ()),
        (".rest.1", (3,)),
    ]
    rows = roll(batch, 4, np.random.default_rng(0))
    assert [row["state_new"][0][0] for row in rows[1]] == [1, 2, 3, 1]
    assert [row["state_new"][1] for row in rows[1]] == [1, 2, 3, 1]
    assert [row["state"][1] for row in rows[1]] == [0, 1, 2, 0]
    np.testing.assert_array_equal(rows[0][2]["state_new"][2], [1, 0, 1])
    assert all(row["reward"] == row["action"].sum() for row in rows[0])


def test_instances_are_copied():
    instance = Counter()
    batch = make_batch(EnvironmentSpec(instance), seeds(3))
    batch.reset()
    assert instance.episode == -1
    np.testing.assert_array_equal(batch.observations[0][:, 1], [0, 0, 0])


def test_an_instance_of_gymnasium_make_keeps_its_wrappers():
    instance = gymnasium.make("CartPole-v1", max_episode_steps=9)
    spec = EnvironmentSpec(instance)
    assert (spec.probe().name, spec.probe().max_episode_steps) == ("CartPole-v1", 9)
    rows = roll(make_batch(spec, seeds(2)), 100, np.random.default_rng(0))
    assert sum(row["truncated"] for row in rows[0]) > 5
    for seed, part in zip(seeds(2), rows, strict=True):
        assert by_hand(gymnasium.make("CartPole-v1", max_episode_steps=9), seed, part, instance.observation_space) > 9


def test_an_instance_that_cannot_be_copied_is_used_once():
    instance = Counter()
    instance.lock = threading.Lock()
    make_batch(EnvironmentSpec(instance), seeds(1)).reset()
    with pytest.raises(InvalidTypeError, match=r"expected an instance that copy.deepcopy can copy.*class or a factory"):
        make_batch(EnvironmentSpec(instance), seeds(2))


def test_a_pickled_spec_keeps_its_probe():
    spec = EnvironmentSpec(lambda: Counter(), {})
    spec.probe()
    there = cloudpickle.loads(cloudpickle.dumps(spec))
    assert there.probe().action_space == Counter.action_space
    batch = make_batch(there, seeds(2))
    batch.reset()
    assert batch.observations[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("CartPol-v1", r"'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("ALE/Pongg-v5", r"Did you mean 'ALE/Pong-v5'"),
        ("no_such_module:Env-v0", r"got 'no_such_module:Env-v0'"),
        ("CartPole-v77", r"Did you mean 'CartPole-v"),
    ],
)
def test_an_unknown_id_is_refused(environment, message):
    with pytest.raises(InvalidValueError, match=message):
        EnvironmentSpec(environment).probe()


class Without:
    """An environment without an observation space, and with any action space."""

    def __init__(self, action_space: Any = None, observation: Any = 0.0) -> None:
        self.observation = observation
        if action_space is not None:
            self.action_space = action_space

    def reset(self):
        return self.observation

    def step(self, action):
        return self.observation, 0.0, False, {}


@pytest.mark.parametrize(
    ("environment", "config", "message"),
    [
        (3, {}, r"expected an id, a class, a factory or an instance .* got <class 'int'>"),
        (Without, {}, r"'Without': expected an attribute action_space"),
        (Without, {"action_space": spaces.Text(3)}, r"action_space that is Discrete, Box, .* got Text"),
        (Without, {"action_space": spaces.Discrete(2), "observation": "left"}, r"expected an array of numbers"),
        (lambda: object(), {}, r"to return an object with reset and step, got <class 'object'>"),
        (gymnasium.vector.SyncVectorEnv([Counter]), {}, r"class or factory that takes num_envs"),
        (lambda: gymnasium.vector.SyncVectorEnv([Counter] * 3), {}, r"got SyncVectorEnv of 3; .* with num_parallel=3$"),
        (lambda num_envs: Counter(), {}, r"to return a gymnasium VectorEnv with num_envs=1, got <.*Counter"),
    ],
)
def test_values_that_are_no_environment_are_refused(environment, config, message):
    with pytest.raises(InvalidTypeError, match=message):
        EnvironmentSpec(environment, config).probe()


def test_config_with_an_instance_is_refused():
    with pytest.raises(InvalidValueError, match="expected nothing with an instance"):
        make_batch(EnvironmentSpec(Counter(), {"fail_at": 3}), seeds(1))


def test_an_error_of_a_constructor_names_its_arguments():
    with pytest.raises(
        EnvironmentFailedError, match=r"(?s)'Counter' could not be made .*'nonsense': 1.*Original traceback"
    ):
        EnvironmentSpec(Counter, {"nonsense": 1}).probe()


def test_an_error_of_a_step_names_environment_and_step():
    batch = make_batch(EnvironmentSpec(Counter, {"fail_at": 2}), seeds(3))
    batch.reset()
    batch.step(np.zeros(3, np.int64))
    with pytest.raises(EnvironmentFailedError) as caught:
        batch.step(np.zeros(3, np.int64), np.array([1, 2]))
    text = str(caught.value)
    assert text.startswith(
        "environment 'Counter', number 1 of the batch, step 1 of its episode: step: KeyError: 'gone'"
    )
    assert 'raise KeyError("gone")' in text
    assert isinstance(caught.value.__cause__, KeyError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == text
    batch.reset()
    batch.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(batch.observations[0][:, 2], [1, 1, 1])


def test_an_error_of_a_reset_names_environment_and_step():
    class Breaks(Counter):
        def reset(self, *, seed=None, options=None):
            if self.episode == 1:
                raise OSError("no more levels")
            return super().reset(seed=seed)

    batch = make_batch(EnvironmentSpec(Breaks), seeds(2))
    batch.reset()
    for _ in range(4):
        batch.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFailedError, match=r"number 0 of the batch.*: reset: OSError: no more levels"):
        batch.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((np.zeros(2), 0.0, False, False, {}), r"expected shape \(3,\), got \(2,\)"),
        ((np.zeros(1), 0.0, False, False, {}), r"expected shape \(3,\), got \(1,\)"),
        ((5.0, 0.0, False, False, {}), r"expected shape \(3,\), got \(\)"),
        ((np.zeros(3), 0.0, False), r"or the older \(observation, reward, done, info\), got a tuple of 3"),
        (7, r"got <class 'int'>"),
        ((np.zeros(3), "much", False, False, {}), r"reward: expected one number, got 'much' \(str\)"),
    ],
)
@pytest.mark.parametrize("fail_at", [1, 2])
def test_invalid_results_of_a_step_are_refused(wrong, message, fail_at):
    batch = make_batch(EnvironmentSpec(Counter, {"fail_at": fail_at, "wrong": wrong}), seeds(1))
    batch.reset()
    if fail_at == 2:
        batch.step(np.zeros(1, np.int64))
    with pytest.raises(EnvironmentFailedError, match=r"number 0 of the batch, step \d of its episode: step") as caught:
        batch.step(np.zeros(1, np.int64))
    if fail_at == 1 or "shape" in message or "much" in message:
        assert caught.match(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vector": "fast"}, r"vector: expected one of 'auto', 'native', 'plain', got 'fast'"),
        ({"vector": "native"}, r"'Counter', which has no vector environment of its own"),
    ],
)
def test_make_batch_refuses_invalid_arguments(options, message):
    with pytest.raises(InvalidValueError, match=message):
        make_batch(EnvironmentSpec(Counter), seeds(2), **options)
    with pytest.raises(InvalidValueError, match="expected at least one"):
        make_batch(EnvironmentSpec(Counter), [])


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (gym.spaces.Discrete(3, start=2), spaces.Discrete(3, start=2)),
        (gym.spaces.Box(-1, 2, (2, 3), np.float32), spaces.Box(-1, 2, (2, 3), np.float32)),
        (gym.spaces.MultiDiscrete([2, 5]), spaces.MultiDiscrete([2, 5])),
        (gym.spaces.MultiBinary([2, 2]), spaces.MultiBinary([2, 2])),
        (
            gym.spaces.Dict({"b": gym.spaces.Discrete(2), "a": gym.spaces.Tuple([gym.spaces.MultiBinary(2)])}),
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.MultiBinary(2)])}),
        ),
    ],
)
def test_gym_spaces_become_gymnasium_spaces(theirs, expected):
    assert to_gymnasium(theirs) == expected


@pytest.mark.parametrize(
    ("observation", "shape", "dtype"),
    [
        ([1.0, 2.0], (2,), np.float32),
        (np.zeros(2), (2,), np.float64),
        (3, (), np.int64),
        (np.zeros((2, 2), np.uint8), (2, 2), np.uint8),
        ([True, False], (2,), np.bool_),
    ],
)
def test_a_missing_observation_space_is_inferred(observation, shape, dtype):
    space = infer_space(observation)
    assert (space.shape, space.dtype) == (shape, np.dtype(dtype))


def test_rendering_with_the_newer_and_the_older_api():
    batch = make_batch(EnvironmentSpec("FrozenLake-v1"), seeds(1), render_mode="ansi")
    batch.reset()
    assert "SFFF" in batch.render().replace("\x1b[41m", "").replace("\x1b[0m", "")

    class Old(OldCounter):
        def render(self, mode="human"):
            return mode

    assert make_batch(EnvironmentSpec(Old), seeds(1), render_mode="rgb_array").render() == "rgb_array"


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("LunarLander-v3", "Box2D", "box2d"), ("Hopper-v5", "mujoco", "mujoco")]
)
def test_a_missing_package_of_gymnasium_names_the_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.startswith(f"gymnasium.envs.{extra}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    told = rf"environment .*: expected {package} for .*, got no package {package}: pip install 'really-rl\[{extra}\]'$"
    for environment in (name, lambda: gymnasium.make(name)):
        with pytest.raises(MissingPackageError, match=told):
            EnvironmentSpec(environment).probe()
