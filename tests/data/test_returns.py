"""Returns and advantages against slow references written from the formulae, for all kinds of ends."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really.data.returns import discount_cumsum, gae, monte_carlo, running_returns
from really.errors import InvalidValueError


def slow_monte_carlo(rewards, terminated, truncated, final_values, gamma, lengths):
    found = np.zeros(rewards.shape)
    for env, length in enumerate(lengths):
        for t in range(length):
            discount, total = 1.0, 0.0
            for k in range(t, length):
                total += discount * rewards[env, k]
                discount *= gamma
                if terminated[env, k]:
                    break
                if truncated[env, k] or k == length - 1:
                    total += discount * final_values[env, k]
                    break
            found[env, t] = total
    return found


def slow_gae(rewards, values, final_values, terminated, truncated, gamma, lam, lengths):
    found = np.zeros(rewards.shape)
    for env, length in enumerate(lengths):
        advantage = 0.0
        for t in reversed(range(length)):
            end = terminated[env, t] or truncated[env, t] or t == length - 1
            after = final_values[env, t] if end else values[env, t + 1]
            delta = rewards[env, t] + gamma * (0 if terminated[env, t] else after) - values[env, t]
            advantage = delta + (0 if end else gamma * lam * advantage)
            found[env, t] = advantage
    return found


@st.composite
def segments(draw):
    num_envs, time = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ends = draw(st.sampled_from([0.0, 0.1, 0.5]))
    return {
        "rewards": rng.normal(size=(num_envs, time)),
        "values": rng.normal(size=(num_envs, time)),
        "final_values": rng.normal(size=(num_envs, time)),
        "terminated": rng.random((num_envs, time)) < ends,
        "truncated": rng.random((num_envs, time)) < ends,
        "lengths": rng.integers(0, time + 1, num_envs) if draw(st.booleans()) else np.full(num_envs, time),
    }


FACTORS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])


@settings(deadline=None)
@given(segments(), FACTORS)
def test_monte_carlo_equals_the_slow_reference(segment, gamma):
    del segment["values"]
    found = monte_carlo(**segment, gamma=gamma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_monte_carlo(**segment, gamma=gamma), rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(segments(), FACTORS, FACTORS)
def test_gae_equals_the_slow_reference(segment, gamma, lam):
    found = gae(**segment, gamma=gamma, lam=lam)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_gae(**segment, gamma=gamma, lam=lam), rtol=1e-6, atol=1e-6)


def test_gae_with_lambda_one_is_monte_carlo_minus_the_value():
    rng = np.random.default_rng(1)
    rewards, values, final_values = rng.normal(size=(3, 2, 50))
    terminated, truncated = rng.random((2, 2, 50)) < 0.1
    returns = monte_carlo(rewards, terminated, truncated, final_values, 0.97)
    advantages = gae(rewards, values, final_values, terminated, truncated, 0.97, 1.0)
    np.testing.assert_allclose(advantages, returns - values, atol=1e-5)


def test_the_value_of_a_constant_reward_does_not_depend_on_cuts():
    time = 400
    truncated = np.zeros((1, time), bool)
    truncated[0, 99::100] = True
    never, value = np.zeros_like(truncated), np.full((1, time), 50.0)
    found = monte_carlo(np.ones((1, time)), never, truncated, value, gamma=0.98)
    np.testing.assert_allclose(found, 50.0, atol=1e-4)
    wrong = monte_carlo(np.ones((1, time)), truncated, never, value, gamma=0.98)
    assert abs(wrong[0, 99] - 50) > 1


def test_a_step_that_is_terminated_and_truncated_counts_as_terminated():
    found = monte_carlo([[1.0]], [[True]], [[True]], [[100.0]], 0.9)
    assert found.tolist() == [[1.0]]


def test_returns_of_an_episode_do_not_depend_on_the_next_one():
    rewards = np.array([[1.0, 1.0, math.inf, math.nan]])
    terminated = np.array([[False, True, False, True]])
    nothing = np.zeros((1, 4))
    assert monte_carlo(rewards, terminated, nothing, nothing, 1.0)[0, :2].tolist() == [2.0, 1.0]


def test_rows_beyond_a_segment_do_not_matter():
    rewards = np.array([[1.0, math.nan], [1.0, 2.0]])
    flags = np.zeros((2, 2), bool)
    found = monte_carlo(rewards, flags, flags, np.full((2, 2), 10.0), 0.5, lengths=[1, 2])
    assert found.tolist() == [[6.0, 0.0], [4.5, 7.0]]
    advantages = gae(rewards, rewards, np.full((2, 2), 10.0), flags, flags, 0.5, 1.0, lengths=[1, 2])
    assert advantages.tolist() == [[5.0, 0.0], [3.5, 5.0]]


def test_a_long_segment_without_an_end_is_exact():
    rewards = np.random.default_rng(3).normal(size=(1, 5000))
    expected, ahead = np.zeros(5000), 2.0
    for t in reversed(range(5000)):
        expected[t] = ahead = rewards[0, t] + 0.999 * ahead
    flags = np.zeros((1, 5000), bool)
    found = monte_carlo(rewards, flags, flags, np.full((1, 5000), 2.0), 0.999)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 2**32), FACTORS, st.integers(1, 3), st.integers(1, 4))
def test_running_returns_equal_a_slow_reference_for_all_splits_of_the_rows(seed, gamma, num_envs, calls):
    rng = np.random.default_rng(seed)
    carried, slow = np.zeros(num_envs), np.zeros(num_envs)
    for _ in range(calls):
        lengths = rng.integers(0, 20, num_envs)
        lengths[rng.integers(num_envs)] += 1
        rewards, ends = rng.normal(size=lengths.sum()), rng.random(lengths.sum()) < 0.2
        found, carried = running_returns(rewards, ends, lengths, carried, gamma)
        expected = []
        for env, first, length in zip(range(num_envs), np.cumsum(lengths) - lengths, lengths, strict=True):
            for row in range(first, first + length):
                slow[env] = rewards[row] + gamma * slow[env]
                expected.append(slow[env])
                slow[env] *= not ends[row]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(carried, slow, rtol=1e-12, atol=1e-12)


def test_no_rows_give_no_returns():
    assert monte_carlo(*np.zeros((4, 2, 0)), 0.9).shape == (2, 0)
    assert gae(*np.zeros((5, 0, 3)), 0.9, 0.9).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "expected"), [([], []), ([3.0], [3.0]), ([1, 1, 1], [1.75, 1.5, 1.0]), ((4, 0, 8), (6, 4, 8))]
)
def test_discount_cumsum(x, expected):
    assert discount_cumsum(x, 0.5).tolist() == list(expected)


def test_discount_cumsum_refuses_a_batch():
    with pytest.raises(InvalidValueError, match=r"x: expected one axis \[time\], got shape \(2, 3\)"):
        discount_cumsum(np.ones((2, 3)), 0.9)


def test_unequal_shapes_are_refused_by_name():
    good = np.zeros((2, 3))
    with pytest.raises(InvalidValueError, match=r"rewards: expected two axes \[env, time\], got shape \(3,\)"):
        monte_carlo(good[0], good, good, good, 0.9)
    with pytest.raises(InvalidValueError, match=r"final_values: expected shape \(2, 3\) .*got \(2, 2\)"):
        monte_carlo(good, good, good, good[:, :2], 0.9)
    with pytest.raises(InvalidValueError, match=r"lengths: expected \[2\] integers from 0 to 3"):
        gae(good, good, good, good, good, 0.9, 0.9, lengths=[1, 4])
