"""Environments of EnvPool as one batch: the transitions of plain instances, episodes that do not mix, refusals."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces

from really.envs import envpool
from really.envs.make import make_batch
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError
from tests.envs.test_environments_native import assert_same_transitions, at_random, seeds

pool = pytest.importorskip("envpool")


def in_the_box(batch, rng: np.random.Generator) -> np.ndarray:
    space = batch.action_space
    return rng.uniform(space.low, space.high, (batch.num_envs, *space.shape)).astype(space.dtype)


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize(
    ("name", "options", "choose", "steps"),
    [
        ("CartPole-v1", {"max_episode_steps": 20}, at_random, 400),
        ("Breakout-v5", {"episodic_life": True, "max_episode_steps": 40}, at_random, 90),
        ("HalfCheetah-v5", {"max_episode_steps": 15}, in_the_box, 60),
        ("CheetahRun-v1", {"max_episode_steps": 15}, in_the_box, 60),
        ("CarRacing-v3", {"max_episode_steps": 5}, in_the_box, 12),
    ],
)
def test_a_pool_gives_the_transitions_of_plain_instances(name, options, choose, steps, share):
    spec = EnvironmentSpec(envpool(name, **options))
    native, plain = make_batch(spec, seeds(5)), make_batch(spec, seeds(5), vector="plain")
    assert (native.kind, plain.kind, native.can_idle) == ("native", "plain", True)
    terminated, truncated = assert_same_transitions(native, plain, steps, choose, share)
    assert terminated + truncated > 5


def test_a_seed_gives_the_same_data_beside_other_environments():
    spec = EnvironmentSpec(envpool("CartPole-v1"))
    five, two = make_batch(spec, seeds(5)), make_batch(spec, [seeds(5)[i] for i in (3, 1)])
    for batch in (five, two):
        batch.reset()
    for step in range(100):
        np.testing.assert_array_equal(five.observations[0][[3, 1]], two.observations[0])
        five.step(np.full(5, step % 3 % 2))
        two.step(np.full(2, step % 3 % 2))


def test_no_row_leads_from_an_episode_to_the_next():
    """EnvPool resets in the step after an end, which returns the reward 0; that row does not exist here."""
    batch = make_batch(EnvironmentSpec(envpool("CartPole-v1", max_episode_steps=4)), seeds(3))
    batch.reset()
    for step in range(1, 30):
        shown = batch.observations[0].copy()
        batch.step(np.ones(3, np.int64))
        np.testing.assert_array_equal(batch.rewards, np.ones(3))
        np.testing.assert_array_equal(batch.truncated, np.full(3, step % 4 == 0))
        # The position moves by the speed for 0.02 s, also in the last step of an episode.
        moved = shown[:, 0] + np.float32(0.02) * shown[:, 1]
        np.testing.assert_allclose(batch.final_observations[0][:, 0], moved, atol=1e-6)
        begins = np.abs(batch.observations[0]).max(axis=1) <= 0.05
        assert begins.all() == (step % 4 == 0)


def test_some_environments_are_reset_alone():
    batch = make_batch(EnvironmentSpec(envpool("CartPole-v1")), seeds(3))
    batch.reset()
    batch.step(np.ones(3, np.int64))
    before = batch.observations[0].copy()
    batch.reset(np.array([1]))
    same = (batch.observations[0] == before).all(axis=1)
    assert same.tolist() == [True, False, True]


def test_an_interrupted_pool_is_made_anew(monkeypatch: pytest.MonkeyPatch):
    batch = make_batch(EnvironmentSpec(envpool("CartPole-v1")), seeds(3))
    batch.reset()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(batch._pool), "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.step(np.ones(3, np.int64))
    batch.reset()
    assert (np.abs(batch.observations[0]) <= 0.05).all()
    batch.step(np.ones(3, np.int64))
    np.testing.assert_array_equal(batch.rewards, np.ones(3))


def test_what_a_manager_knows_of_an_environment_of_a_pool():
    environment = cloudpickle.loads(cloudpickle.dumps(envpool("Pong-v5", frame_skip=2)))
    probe = EnvironmentSpec(environment).probe()
    assert probe.name == "envpool('Pong-v5')"
    assert probe.observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert (probe.action_space, probe.max_episode_steps) == (spaces.Discrete(6), 27_000)
    frame = EnvironmentSpec(environment).make("rgb_array")
    frame.reset(seed=1)
    assert frame.render("rgb_array").shape == (210, 160, 3)
    frame.close()
    batch = make_batch(EnvironmentSpec(environment, {"frame_skip": 4}), seeds(2), render_mode="rgb_array")
    batch.reset()
    assert (batch.kind, batch.render().shape) == ("plain", (210, 160, 3))
    batch.close()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Ponk-v5", {}, "envpool: expected a task that EnvPool has, got 'Ponk-v5'. Did you mean .*'Pong-v5'"),
        ("Pong-v5", {"num_envs": 3}, "expected options of the task, got 'num_envs', which each runner sets itself"),
        ("Pong-v5", {"colour": 3}, "expected options that EnvPool takes, got TypeError.*'colour'"),
        ("TicTacToe-v1", {}, "expected a task of one player, got one of 2"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(InvalidValueError, match=message):
        envpool(name, **options)
