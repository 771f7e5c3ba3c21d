"""`input_shape`: observations in the shape that the user gives, if it has as many numbers as the environment's."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really import SampleManager
from really.envs.make import make_batch
from really.envs.observed import asked_shape, shaped_space
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError, ModelError


class Screen(gymnasium.Env):
    """Shows the numbers 0, 1, ... plus the time in the given shape; episodes last three steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.observation_space = spaces.Box(0, 99, shape, dtype)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._show(), {}

    def step(self, action):
        self.time += 1
        return self._show(), 1.0, self.time == 3, False, {}

    def _show(self):
        shape = self.observation_space.shape
        return (np.arange(np.prod(shape)).reshape(shape) + self.time).astype(self.observation_space.dtype)


class Dense(tf.keras.Model):
    """Dense layers on the last axis, without a look at the shape."""

    def __init__(self):
        super().__init__()
        self.q = tf.keras.layers.Dense(2)

    def call(self, state):
        return {"q_values": self.q(tf.cast(state, tf.float32))}


class Convolution(Dense):
    """Takes images `[height, width, 1]`."""

    def __init__(self):
        super().__init__()
        self.seen = tf.keras.layers.Conv2D(2, 3, input_shape=(5, 4, 1))

    def call(self, state):
        return super().call(tf.keras.layers.Flatten()(self.seen(tf.cast(state, tf.float32))))


def manager(model: Any, shape: tuple[int, ...], input_shape: Any, **options: Any) -> SampleManager:
    options = {"num_steps": 4, "use_ray": False, "env_config": {"shape": shape}, "input_shape": input_shape, **options}
    return SampleManager(model, Screen, 2, 8, **options)


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
@pytest.mark.parametrize(
    ("model", "shape", "input_shape", "delivered"),
    [
        (Dense, (3, 2), (6,), (6,)),
        (Dense, (3, 2), 6, (6,)),
        (Dense, (), (1,), (1,)),
        (Dense, (1, 4), [4], (4,)),
        (Convolution, (5, 4), (5, 4, 1), (5, 4, 1)),
        (Dense, (4,), (4,), (4,)),
        (Dense, (4,), (1, 4), (4,)),
        (Dense, (4,), None, (4,)),
        (Dense, (4,), True, (4,)),
    ],
)
def test_observations_are_delivered_in_the_input_shape(model, shape, input_shape, delivered):
    with manager(model, shape, input_shape) as collecting:
        data = collecting.get_data()
        size = np.prod(shape, dtype=int)
        for name, times in (("state", [0, 1, 2, 0]), ("state_new", [1, 2, 3, 1])):
            expected = np.array([np.arange(size).reshape(delivered) + time for time in times] * 2, np.float32)
            np.testing.assert_array_equal(data[name], expected)
        agent = collecting.get_agent()
        assert agent.act(data["state"]).shape == (8,)
        assert collecting.test(5, test_episodes=2) == [3, 3]
        if shape != (3, 2) and delivered != (4,):
            assert agent.act(np.zeros(shape)).shape == ()


def test_a_shape_of_another_size_is_an_error_at_construction():
    with pytest.raises(ModelError, match=r"to take observations \(state \[4\] float32\) after input_shape=\(3,\), got"):
        manager(Dense, (4,), (3,))


@pytest.mark.parametrize("input_shape", ["4", (0,), (4.0,), (-1, 4)])
def test_values_that_are_no_shape_are_refused(input_shape):
    with pytest.raises(InvalidValueError, match="input_shape: expected sizes >= 1 of one observation, None or False"):
        manager(Dense, (4,), input_shape)


def test_spaces_keep_their_bounds_and_whole_numbers_their_shape():
    space = spaces.Box(np.arange(6.0).reshape(2, 3), 9, dtype=np.float64)
    shaped = shaped_space(space, (6,))
    assert shaped == spaces.Box(np.arange(6.0), 9, dtype=np.float64)
    for kept, shape in (
        (spaces.Discrete(3), (1,)),
        (spaces.Box(0, 9, (), np.int64), (1,)),
        (space, (5,)),
        (space, None),
    ):
        assert shaped_space(kept, shape) is kept
    assert [asked_shape(given) for given in (None, False, 3, (2, np.int64(3)), (), "ab", (1.5,))] == [
        None,
        None,
        (3,),
        (2, 3),
        (),
        None,
        None,
    ]


def test_other_dtypes_and_episode_ends_keep_the_shape():
    spec = EnvironmentSpec(Screen, {"shape": (2, 2), "dtype": np.uint8}, (4,))
    batch = make_batch(spec, np.random.SeedSequence(7).spawn(3))
    batch.reset()
    for step in range(1, 4):
        batch.step(np.zeros(3, np.int64))
        assert batch.final_observations[0].tolist() == [[step, step + 1, step + 2, step + 3]] * 3
    assert batch.terminated.all()
    assert batch.observations[0].tolist() == [[0, 1, 2, 3]] * 3


def test_a_native_vector_environment_gives_its_own_shape_alone():
    batch = make_batch(EnvironmentSpec("CartPole-v1", {}, (2, 2)), np.random.SeedSequence(7).spawn(9))
    own = make_batch(EnvironmentSpec("CartPole-v1"), np.random.SeedSequence(7).spawn(9))
    for each in (batch, own):
        each.reset()
        each.step(np.zeros(9, np.int64))
    np.testing.assert_array_equal(batch.observations[0], own.observations[0].reshape(9, 2, 2))
    with pytest.raises(InvalidValueError, match=r"no vector environment of its own that gives observations of Box"):
        make_batch(EnvironmentSpec("CartPole-v1", {}, (2, 2)), np.random.SeedSequence(7).spawn(9), vector="native")
