"""The compiled parts of a step give what NumPy gives, to the bit, for usual arrays and for odd ones."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from really._utils._step import Columns, DiscreteSampler, PlainLoop, fill, is_finite
from really.envs.received import ReceivedObservations
from really.envs.results import flag, number
from really.policies.policy import make_policy

ODD = {
    "plain": lambda rows: rows,
    "strided": lambda rows: np.repeat(rows, 2, axis=-1)[..., ::2],
    "swapped": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "wider": lambda rows: rows.astype(np.float64),
    "read-only": lambda rows: np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
    "subclass": lambda rows: np.ma.array(rows),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 5), (0,)])
def test_columns_take_what_numpy_takes(odd, dtype, shape):
    if odd in ("strided",) and not shape:
        pytest.skip("one number has no strides")
    expected = np.zeros((3, 4, *shape), dtype)
    arrays = np.zeros((4, 3, *shape), dtype)
    columns = Columns([arrays.swapaxes(0, 1)])
    for step in range(3):
        rows = np.random.default_rng(step).integers(0, 2, (4, *shape)).astype(dtype)
        expected[step] = ODD[odd](rows)
        columns.write(step, (ODD[odd](rows),))
    np.testing.assert_array_equal(arrays.swapaxes(0, 1), expected)


def test_columns_refuse_what_numpy_refuses():
    column = np.zeros((3, 4, 2), np.float32)
    columns = Columns([column])
    with pytest.raises(IndexError, match="out of bounds"):
        columns.write(3, (np.ones((4, 2), np.float32),))
    with pytest.raises(ValueError, match="could not broadcast"):
        columns.write(0, (np.ones((4, 3), np.float32),))
    with pytest.raises(ValueError, match="values: expected 1 arrays, got 2"):
        columns.write(0, (np.ones((4, 2), np.float32),) * 2)
    assert not column.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype, value):
    values = np.full((3, 7), np.finfo(dtype).max, dtype)
    values[1] = -values[1]
    assert is_finite(values)
    for place in np.ndindex(values.shape):
        other = values.copy()
        other[place] = value
        assert not is_finite(other)


def test_other_arrays_are_not_said_to_be_finite():
    assert not any(is_finite(values) for values in (1.0, np.zeros(4, np.float16), np.zeros(4)[::2], np.ma.zeros(2)))
    assert is_finite(np.zeros((0, 2), np.float32))


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("rows", [1, 2])
def test_fill_copies_as_an_assignment_does(odd, rows):
    leaf = np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3)
    view = np.zeros((2, 2, 3), np.float32)
    fill([view], [ODD[odd](leaf)])
    np.testing.assert_array_equal(view, np.broadcast_to(leaf, view.shape))
    with pytest.raises(ValueError, match="could not broadcast"):
        fill([view], [np.zeros((3, 2, 3), np.float32)])


@given(
    seed=st.integers(0, 2**32),
    envs=st.integers(1, 5),
    actions=st.integers(1, 4),
    kind=st.sampled_from(["epsilon_greedy", "thompson", "discrete_policy"]),
    setting=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    start=st.sampled_from([0, -3, 5]),
)
@settings(max_examples=60, deadline=None)
def test_compiled_samplers_choose_as_numpy_does(seed, envs, actions, kind, setting, dtype, start):
    rng = np.random.default_rng(seed)
    policy = make_policy(kind, spaces.Discrete(actions, start=start), epsilon=setting, temperature=setting)
    noise = np.stack([policy.noise(rng, 6) for _ in range(envs)])
    sampler = policy.sampler(noise)
    assert isinstance(sampler, DiscreteSampler)
    for step in range(6):
        # Small whole numbers, so that several are the largest.
        outputs = {policy.required_outputs[0]: rng.integers(-2, 3, (envs, actions)).astype(dtype)}
        expected = policy.sample(outputs, noise[:, step])
        np.testing.assert_array_equal(sampler(outputs, step), expected, strict=True)


def loop_of(*functions, limit=100):
    """A loop over environments that are these functions, and the arrays that it writes."""
    num = len(functions)
    received = ReceivedObservations(spaces.Box(-9, 9, (2,), np.float32), np.zeros(2, np.float32), num)
    outcome = np.zeros(num, np.float32), np.zeros(num, np.bool_), np.zeros(num, np.bool_)
    loop = PlainLoop(num, limit, True, received, outcome, number, flag)
    loop.steps = list(functions)
    return loop, received, outcome


def returns(*values):
    return lambda action: values


SEEN = np.array([1.0, 2.0], np.float32)


@pytest.mark.parametrize("reward", [3, 3.0, np.float32(3), np.float64(3), np.int16(3), np.array(3.0), np.array([3.0])])
def test_rewards_of_any_type_are_numbers(reward):
    loop, received, (rewards, *_) = loop_of(returns(SEEN, reward, False, False, {}))
    assert loop.run(np.array([0]), None) == []
    assert (rewards.tolist(), received.shown[0].tolist()) == ([3.0], [[1.0, 2.0]])
    with pytest.raises(TypeError, match="reward: expected one number"):
        loop_of(returns(SEEN, "three", False, False, {}))[0].run(np.array([0]), None)


@pytest.mark.parametrize("seen", [SEEN, SEEN.tolist(), np.repeat(SEEN, 2)[::2], SEEN.astype(np.float64)])
def test_observations_of_any_form_arrive(seen):
    loop, received, _ = loop_of(returns(SEEN, 0.0, False, False, {}), returns(seen, 0.0, False, False, {}))
    for _ in range(2):
        loop.run(np.array([0, 0]), None)
        received.convert()
        assert received.shown[0].tolist() == [[1.0, 2.0]] * 2
    with pytest.raises(ValueError, match="expected shape"):
        loop_of(returns(np.zeros(3, np.float32), 0.0, False, False, {}))[0].run(np.array([0]), None)


def test_active_environments_alone_are_stepped_and_ends_are_told():
    taken = []

    def environment(i):
        def step(action):
            taken.append((i, action, type(action)))
            return SEEN, float(i), np.bool_(i == 2), False, {}

        return step

    loop, _, (rewards, terminated, truncated) = loop_of(*map(environment, range(4)), limit=2)
    assert loop.run(np.array([5, 6, 7, 8]), np.array([0, 2])) == [2]
    assert taken == [(0, 5, int), (2, 7, int)]
    assert loop.run(np.array([5, 6, 7, 8]), np.array([0, 3])) == [0]
    assert (loop.elapsed.tolist(), rewards.tolist()) == ([2, 0, 1, 1], [0.0, 0.0, 2.0, 3.0])
    assert (terminated.tolist(), truncated.tolist()) == ([False, False, True, False], [True, False, False, False])
    with pytest.raises(IndexError, match="active: expected numbers from 0 to 3, got 4"):
        loop.run(np.array([0, 0, 0, 0]), np.array([4]))


def test_the_environment_that_raises_is_told():
    def broken(action):
        raise RuntimeError("broken")

    loop, _, _ = loop_of(returns(SEEN, 0.0, False, False, {}), broken)
    with pytest.raises(RuntimeError, match="broken"):
        loop.run(np.array([0, 0]), None)
    assert (loop.at, loop.elapsed.tolist()) == (1, [1, 0])
    loop.steps = [returns(SEEN, 0.0, "False", False, {})] * 2
    with pytest.raises(TypeError, match="terminated: expected True or False, got 'False'"):
        loop.run(np.array([0, 0]), None)
