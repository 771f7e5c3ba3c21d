"""Vector environments of other people: whenever they start episodes, rows end with their own episode's observation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from really import InvalidValueError, SampleManager
from really.envs.make import make_batch
from really.envs.single_of_vector import SingleOfVector
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError
from tests.environments import Counter
from tests.models import QNet

LENGTH = 4


class Steps(VectorEnv):
    """Observes [first, step]; `first` is 100 at each start, or a new number if `varies`; an episode has 4 steps.

    Args:
        resets: "same" starts the next episode within the step, "next" in the next step, "never" waits for `reset`.
        key: the entry of `info` with last observations, if any.
        mode: what the metadata declare, if anything.
        form: of `info[key]`: "objects", "batch" or "infos" (a list of infos).
        reward: of each step.
    """

    def __init__(self, num_envs, resets="same", key=None, mode=None, form="objects", varies=False, reward=1.0):
        self.num_envs, self.resets, self.key, self.form = num_envs, resets, key, form
        self.varies, self.reward = varies, reward
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(0, 999, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.starts = 0
        self.at = np.zeros((num_envs, 2), np.float32)
        self.over = np.zeros(num_envs, np.bool_)

    def _start(self, which):
        for i in which:
            self.starts += 1
            self.at[i] = 100 + self.starts * self.varies, 0
            self.over[i] = False

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._start(mask.nonzero()[0])
        return self.at.copy(), {}

    def step(self, actions):
        begins = self.over.copy() if self.resets == "next" else np.zeros(self.num_envs, np.bool_)
        self.at[~begins, 1] += 1
        self._start(begins.nonzero()[0])
        done, info = (self.at[:, 1] == LENGTH) & ~begins, {}
        rewards = np.where(begins, 0.0, self.reward)
        self.over = done.copy()
        if done.any() and self.key is not None:
            info = self._final(done)
        if self.resets == "same":
            self._start(done.nonzero()[0])
        return self.at.copy(), rewards, done, np.zeros(self.num_envs, np.bool_), info

    def _final(self, done):
        if self.form == "infos":
            return [{self.key: self.at[i].copy()} if done[i] else {} for i in range(self.num_envs)]
        if self.form == "batch":
            return {self.key: self.at.copy()}
        found = np.full(self.num_envs, None)
        for i in done.nonzero()[0]:
            found[i] = self.at[i].copy()
        return {self.key: found, f"_{self.key}": done.copy()}


def batch_of(vector="auto", size=3, **options):
    return make_batch(EnvironmentSpec(partial(Steps, **options)), np.random.SeedSequence(7).spawn(size), vector=vector)


def play(batch, steps=3 * LENGTH):
    """Steps all environments and asserts that no row mixes two episodes; returns the number of ends."""
    batch.reset()
    ends = 0
    for _ in range(steps):
        before = batch.observations[0].copy()
        batch.step(np.zeros(batch.num_envs, np.int64))
        after, over = batch.final_observations[0], batch.terminated | batch.truncated
        np.testing.assert_array_equal(after, before + np.array([0, 1]))
        np.testing.assert_array_equal(over, after[:, 1] == LENGTH)
        np.testing.assert_array_equal(batch.observations[0][over, 1], 0)
        np.testing.assert_array_equal(batch.observations[0][~over], after[~over])
        ends += int(over.sum())
    batch.close()
    return ends


@pytest.mark.parametrize("vector", ["auto", "plain"])
@pytest.mark.parametrize("key", ["final_obs", "final_observation", "terminal_observation"])
@pytest.mark.parametrize("form", ["objects", "batch", "infos"])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "same_step", "SameStep", "SAME-STEP", None])
def test_a_row_ends_with_the_last_observation_that_the_info_tells(vector, key, form, mode):
    for varies in (False, True):
        assert play(batch_of(vector, key=key, form=form, mode=mode, varies=varies)) == 9


@pytest.mark.parametrize("vector", ["auto", "plain"])
@pytest.mark.parametrize("mode", ["same_step", None])
def test_without_the_last_observation_an_error_names_it(vector, mode):
    for form in ("objects", "infos"):
        batch = batch_of(vector, mode=mode, key="other", form=form)
        with pytest.raises(EnvironmentFailedError, match=r"step: .*expected info\['final_obs'\] with the last obs"):
            play(batch)


def test_an_undeclared_environment_that_tells_last_infos_resets_within_the_step():
    with pytest.raises(EnvironmentFailedError, match=r"got none from an environment that resets within the step"):
        play(batch_of(key="final_info", varies=True, reward=0.0))


@pytest.mark.parametrize("resets", ["next", "never"])
@pytest.mark.parametrize("varies", [False, True])
def test_the_end_of_the_first_episode_shows_the_mode_of_an_undeclared_environment(resets, varies):
    if (resets, varies) == ("never", True):
        with pytest.raises(EnvironmentFailedError, match=r"metadata\['autoreset_mode'\]: expected .*got none"):
            play(batch_of(resets=resets, varies=varies))
    else:
        assert play(batch_of(resets=resets, varies=varies)) == 9


def test_an_undeclared_environment_that_cannot_be_stepped_after_an_end_is_reset():
    class Strict(Steps):
        def step(self, actions):
            assert not self.over.any(), "call reset"
            return super().step(actions)

    spec = EnvironmentSpec(partial(Strict, resets="never", varies=True))
    assert play(make_batch(spec, np.random.SeedSequence(7).spawn(2))) == 6


@pytest.mark.parametrize(("resets", "mode"), [("next", "next_step"), ("never", "DISABLED")])
def test_declared_modes_in_any_spelling(resets, mode):
    assert play(batch_of(resets=resets, mode=mode, varies=True)) == 9


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(InvalidValueError, match=r"autoreset_mode'\]: expected one of 'Disabled', .*got 'sometimes'"):
        batch_of(mode="sometimes")


def test_rewards_for_another_number_of_environments_are_refused():
    class OneReward(Steps):
        def step(self, actions):
            batch, rewards, *others = super().step(actions)
            return batch, rewards[:1], *others

    spec = EnvironmentSpec(partial(OneReward, mode="same_step", key="final_obs"))
    with pytest.raises(EnvironmentFailedError, match=r"reward: expected \(3,\), got \(1,\)"):
        play(make_batch(spec, np.random.SeedSequence(7).spawn(3)))


def test_a_reset_of_some_environments_that_resets_all_is_refused():
    class IgnoresMask(Steps):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)

    spec = EnvironmentSpec(partial(IgnoresMask, mode="same_step", key="final_obs"))
    batch = make_batch(spec, np.random.SeedSequence(7).spawn(3))
    batch.reset()
    batch.step(np.zeros(3, np.int64))
    with pytest.raises(EnvironmentFailedError, match=r"reset: expected options\['reset_mask'\] to .*vector='plain'"):
        batch.reset(np.array([1]))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_infos_are_those_of_the_episode_that_ends(mode):
    class Telling(Counter):
        def reset(self, **options: Any):
            return super().reset(**options)[0], {"at": 0, "start": True}

        def step(self, action):
            return *super().step(action)[:4], {"at": self.count, "nested": {"at": self.count}}

    vector = RecordEpisodeStatistics(SyncVectorEnv([partial(Telling, LENGTH)], autoreset_mode=mode))
    single = SingleOfVector(vector)
    for _ in range(3):
        assert single.reset()[1] == {"at": 0, "start": True}
        for step in range(1, LENGTH + 1):
            observation, _, terminated, _, info = single.step(1)
            assert (observation[0], info["at"], info["nested"]["at"], terminated) == (step, step, step, step == LENGTH)
        assert (info["episode"]["r"], info["episode"]["l"]) == (LENGTH, LENGTH)


@pytest.mark.parametrize("key", ["final_obs", "final_observation"])
@pytest.mark.parametrize("mode", ["same_step", None])
def test_collection_and_evaluation_of_environments_that_reset_within_the_step(key, mode):
    environment = partial(Steps, key=key, mode=mode)
    with SampleManager(QNet, environment, 3, 60, num_steps=10, returns=["episode_end"], use_ray=False) as manager:
        data = manager.get_data()
        np.testing.assert_array_equal(data["state_new"], data["state"] + np.array([0, 1]))
        np.testing.assert_array_equal(data["terminal"] == 1, data["state_new"][:, 1] == LENGTH)
        assert manager.test(50, 5, evaluation_measure="time_and_reward") == ([LENGTH] * 5, [LENGTH] * 5)


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_whole_episodes_of_an_environment_that_cannot_wait_begin_at_a_start(kind):
    """Agent 0 plays episodes of 2 steps and waits for agent 1, whose episodes have 7 steps."""

    def vectors(num_envs):
        return kind([partial(Counter, 2 + 5 * i) for i in range(num_envs)], autoreset_mode="SameStep")

    options = {"num_episodes": 1, "returns": ["agent", "episode_end"], "use_ray": False, "remote_min_returns": 2}
    with SampleManager(QNet, vectors, 2, 9, **options) as manager:
        for _ in range(4):
            data = manager.get_data()
            starts = np.append(True, data["episode_end"][:-1] == 1)
            np.testing.assert_array_equal(data["state"][starts, 0], 0)
            np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
