"""Native vector environments compared with plain ones: CartPole bit for bit, the autoreset modes, Atari games."""

from __future__ import annotations

from functools import partial

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import really.envs.make
from really.envs.atari import atari
from really.envs.make import make_batch
from really.envs.native import CARTPOLE, CARTPOLE_VECTOR
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, InvalidTypeError, InvalidValueError


def seeds(number: int, entropy: int = 7) -> list[np.random.SeedSequence]:
    return np.random.SeedSequence(entropy).spawn(number)


def assert_same_transitions(a, b, steps: int, choose, share: float = 1.0) -> tuple[int, int]:
    """Steps both with the same actions; returns the numbers of terminated and truncated episodes."""
    rng = np.random.default_rng(11)
    a.reset()
    b.reset()
    terminated = truncated = 0
    for _ in range(steps):
        np.testing.assert_array_equal(a.observations[0], b.observations[0])
        active = np.flatnonzero(rng.random(a.num_envs) < share) if share < 1 else None
        actions = choose(a, rng)
        a.step(actions, active)
        b.step(actions, active)
        at = slice(None) if active is None else active
        np.testing.assert_array_equal(a.final_observations[0][at], b.final_observations[0][at])
        for name in ("rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, name)[at], getattr(b, name)[at])
        terminated += int(a.terminated[at].sum())
        truncated += int(a.truncated[at].sum())
    a.close()
    b.close()
    return terminated, truncated


def balance_mostly(batch, rng: np.random.Generator) -> np.ndarray:
    """Actions that keep most poles upright until the time limit."""
    shown = batch.observations[0]
    good = (shown[:, 2] + shown[:, 3] > 0).astype(np.int64)
    return np.where(rng.random(batch.num_envs) < 0.05, rng.integers(0, 2, batch.num_envs), good)


def at_random(batch, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, batch.action_space.n, batch.num_envs)


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("config", [{}, {"max_episode_steps": 100, "sutton_barto_reward": True}])
def test_native_cartpole_gives_the_transitions_of_plain_instances(share, config):
    spec = EnvironmentSpec("CartPole-v1", config)
    native = make_batch(spec, seeds(5), vector="native")
    plain = make_batch(spec, seeds(5), vector="plain")
    assert (native.kind, plain.kind) == ("native", "plain")
    terminated, truncated = assert_same_transitions(native, plain, 3000, balance_mostly, share)
    assert truncated > 8
    native, plain = (make_batch(spec, seeds(5), vector=kind) for kind in ("native", "plain"))
    terminated, truncated = assert_same_transitions(native, plain, 3000, at_random, share)
    # Each environment plays more episodes than it draws start states at once.
    assert terminated > 5 * 64


@pytest.fixture
def registered():
    """An id of CartPole that is registered with an argument of its class."""
    name = "SuttonBartoCartPole-v0"
    gymnasium.register(
        name, CARTPOLE, vector_entry_point=CARTPOLE_VECTOR, kwargs={"sutton_barto_reward": True}, max_episode_steps=30
    )
    yield name
    del gymnasium.registry[name]


@pytest.mark.parametrize("config", [{}, {"sutton_barto_reward": False}, {"max_episode_steps": 20}])
def test_native_cartpole_has_the_arguments_with_which_its_id_is_registered(registered, config):
    native, plain = (
        make_batch(EnvironmentSpec(registered, config), seeds(8), vector=kind) for kind in ("auto", "plain")
    )
    assert (native.kind, plain.kind) == ("native", "plain")
    rewards = []

    def choose(batch, rng):
        rewards.append(batch.rewards.copy())
        return at_random(batch, rng)

    terminated, truncated = assert_same_transitions(native, plain, 300, choose)
    assert min(terminated, truncated) > 8
    assert set(np.unique(rewards[1:])) == ({1} if "sutton_barto_reward" in config else {-1, 0})


def test_native_cartpole_resets_some_environments():
    native, plain = (make_batch(EnvironmentSpec("CartPole-v1"), seeds(4), vector=kind) for kind in ("native", "plain"))
    for batch in (native, plain):
        batch.reset()
        batch.step(np.array([0, 1, 1, 0]))
        batch.reset(np.array([0, 2]))
        batch.step(np.array([1, 1, 1, 0]))
    np.testing.assert_array_equal(native.observations[0], plain.observations[0])


def test_auto_takes_native_cartpole_from_the_measured_number_on():
    spec = EnvironmentSpec("CartPole-v1")
    threshold = really.envs.make.CARTPOLE_NATIVE_FROM
    assert make_batch(spec, seeds(threshold)).kind == "native"
    assert make_batch(spec, seeds(threshold - 1)).kind == "plain"
    assert make_batch(spec, seeds(threshold), render_mode="rgb_array").kind == "plain"
    assert make_batch(EnvironmentSpec("Acrobot-v1"), seeds(threshold)).kind == "plain"


def test_a_native_environment_with_other_spaces_is_refused():
    spec = EnvironmentSpec("ALE/Pong-v5")
    assert spec.probe().observation_space.shape == (210, 160, 3)
    with pytest.raises(InvalidTypeError, match=r"with the spaces of the plain one, Box\(0, 255, \(210, 160, 3\)"):
        make_batch(spec, seeds(2), vector="native")


class Counter(gymnasium.Env):
    """Observes {"place": [episode, step], "seed": seed}; episodes last 2, 3, 4, 2, ...; every second is truncated."""

    observation_space = spaces.Dict({"place": spaces.Box(0, 99, (2,)), "seed": spaces.Box(0, 2.0**31, (), np.float64)})
    action_space = spaces.Discrete(3)
    fails = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = seed if seed is not None else self.seed
        self.episode, self.time = getattr(self, "episode", -1) + 1, 0
        return self._show(), {}

    def step(self, action):
        self.time += 1
        if self.fails and self.time == 2:
            raise KeyError("gone")
        over = self.time == 2 + self.episode % 3
        return self._show(), float(action), over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}

    def _show(self):
        return {"place": np.array([self.episode, self.time], np.float32), "seed": np.array(self.seed, np.float64)}


class Failing(Counter):
    fails = True


def vectors(kind, mode, num_envs, env=Counter):
    return kind([env] * num_envs, autoreset_mode=mode)


def assert_counts(batch, steps: int) -> None:
    batch.reset()
    np.testing.assert_array_equal(batch.observations[1], [seed.generate_state(1)[0] >> 1 for seed in seeds(3)])
    expected = np.zeros((3, 2), np.float32)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        np.testing.assert_array_equal(batch.observations[0], expected)
        actions = rng.integers(0, 3, 3)
        batch.step(actions)
        np.testing.assert_array_equal(batch.final_observations[0], expected + np.array([0, 1]))
        np.testing.assert_array_equal(batch.rewards, actions)
        episode, step = batch.final_observations[0].T
        over = step == 2 + episode % 3
        np.testing.assert_array_equal(batch.terminated, over & (episode % 2 == 0))
        np.testing.assert_array_equal(batch.truncated, over & (episode % 2 == 1))
        expected = np.where(over[:, None], np.stack([episode + 1, 0 * step], 1), batch.final_observations[0])
    batch.close()


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("vector", ["auto", "plain"])
def test_autoreset_modes_do_not_mix_episodes(kind, mode, vector):
    batch = make_batch(EnvironmentSpec(partial(vectors, kind, mode)), seeds(3), vector=vector)
    assert (batch.kind, batch.can_idle) == (("native", False) if vector == "auto" else ("plain", True))
    assert_counts(batch, 40)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_resets_some_environments(mode):
    batch = make_batch(EnvironmentSpec(partial(vectors, SyncVectorEnv, mode)), seeds(3))
    batch.reset()
    batch.step(np.zeros(3, np.int64))
    batch.reset(np.array([1]))
    np.testing.assert_array_equal(batch.observations[0], [[0, 1], [1, 0], [0, 1]])
    batch.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(batch.final_observations[0], [[0, 2], [1, 1], [0, 2]])
    np.testing.assert_array_equal(batch.observations[0], [[1, 0], [1, 1], [1, 0]])


def test_a_next_step_environment_without_reset_mask_is_stepped_one_by_one():
    """Instances of gymnasium's CartPoleVectorEnv of size one give the transitions of plain instances."""
    batch = make_batch(EnvironmentSpec(CartPoleVectorEnv), seeds(3))
    plain = make_batch(EnvironmentSpec("CartPole-v1"), seeds(3), vector="plain")
    assert (batch.kind, batch.can_idle) == ("plain", True)
    terminated, _ = assert_same_transitions(batch, plain, 300, at_random, 0.8)
    assert terminated > 20


def test_an_error_of_a_vector_environment_names_its_step():
    spec = EnvironmentSpec(partial(vectors, SyncVectorEnv, "SameStep", env=Failing))
    batch = make_batch(spec, seeds(2))
    batch.reset()
    batch.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFailedError, match=r"(?s)one of 2 in a batch, step 1 of it: step: KeyError.*gone"):
        batch.step(np.zeros(2, np.int64))


# Short games: 30 actions of 4 frames, which include the no-op actions at the start.
SHORT = {"max_frames": 120}


def play(spec: EnvironmentSpec, numbers: list[int], steps: int, share: float = 1.0, vector: str = "auto"):
    """Plays and returns, for each environment number, its rows (state, state_new, reward, terminated, truncated)."""
    batch = make_batch(spec, [seeds(4)[i] for i in numbers], vector=vector)
    rng = np.random.default_rng(2)
    actions_left = {i: iter(np.random.default_rng(i).integers(0, 4, 10**4)) for i in numbers}
    rows: dict[int, list] = {i: [] for i in numbers}
    batch.reset()
    for _ in range(steps):
        active = np.flatnonzero(rng.random(len(numbers)) < share)
        shown = batch.observations[0].copy()
        batch.step(np.array([next(actions_left[i]) if at in active else 0 for at, i in enumerate(numbers)]), active)
        for at in active:
            flags = (batch.rewards[at], batch.terminated[at], batch.truncated[at])
            rows[numbers[at]].append((shown[at], batch.final_observations[0][at].copy(), *flags))
    batch.close()
    return rows


def assert_equal_rows(a, b) -> None:
    for one, other in zip(a, b, strict=False):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


def test_atari_does_the_published_preprocessing():
    spec = EnvironmentSpec(atari("pong"))
    probe = spec.probe()
    assert probe.name == "atari('pong')"
    assert probe.observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert probe.action_space == spaces.Discrete(6)
    assert EnvironmentSpec(atari("Pong", full_action_space=True)).probe().action_space == spaces.Discrete(18)
    batch = make_batch(cloudpickle.loads(cloudpickle.dumps(spec)), seeds(1))
    batch.reset()
    assert batch.observations[0].shape == (1, 4, 84, 84)
    assert batch.observations[0].dtype == np.uint8
    assert not batch.observations[0][0, :3].any(), "frames before an episode's first are black"
    assert batch.observations[0][0, 3].any()
    assert batch.render().shape == (84, 84, 3)


@pytest.mark.parametrize("options", [{}, {"sticky_actions": 0.25}])
def test_atari_data_do_not_depend_on_other_games_in_the_batch(options):
    spec = EnvironmentSpec(atari("breakout", **SHORT, **options))
    together = play(spec, [0, 1, 2], 70)
    apart = play(spec, [2, 0], 90, share=0.7)
    alone = play(spec, [1], 70, vector="plain")
    assert_equal_rows(apart[2], together[2])
    assert_equal_rows(apart[0], together[0])
    assert_equal_rows(alone[1], together[1])
    assert any((one[0] != other[0]).any() for one, other in zip(together[0], together[1], strict=True))


def test_atari_rows_do_not_mix_episodes():
    for rows in play(EnvironmentSpec(atari("breakout", **SHORT)), [0, 1], 100).values():
        ends = [terminated or truncated for *_, terminated, truncated in rows]
        assert sum(row[4] for row in rows) >= 1
        assert sum(row[3] for row in rows) >= 1
        for (_, state_new, *_), end, (state, *_) in zip(rows, ends, rows[1:], strict=False):
            assert end != np.array_equal(state_new, state)
            assert end == (not state[:3].any())
        for state, state_new, *_ in rows:
            np.testing.assert_array_equal(state[1:], state_new[:3])


def test_atari_life_loss_ends_an_episode_only_if_asked():
    rows = play(EnvironmentSpec(atari("breakout", terminal_on_life_loss=False)), [0], 100)[0]
    assert not any(row[3] for row in rows)
    rows = play(EnvironmentSpec(atari("breakout")), [0], 100)[0]
    assert any(row[3] for row in rows)


@pytest.mark.parametrize(("game", "near"), [("ponk", "'pong'"), ("MsPackman", "'ms_pacman'")])
def test_an_unknown_game_suggests_similar_ones(game, near):
    with pytest.raises(InvalidValueError, match=f"got '{game}'. Did you mean .*{near}"):
        atari(game)
    assert atari("MsPacman").game == "ms_pacman"
