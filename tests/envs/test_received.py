"""What an environment returns, compared with what it declares: shapes, dtypes, values, rewards, flags."""

from __future__ import annotations

import types
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from really import SampleManager
from really.data.spaces import observation_leaves
from really.envs.make import make_batch
from really.envs.received import LostValueError, ReceivedObservations
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, InvalidTypeError


class Shows(gymnasium.Env):
    """Shows `first` after a reset and the values of `later` after steps; other results of a step are given, too."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, first: Any, later: Any = None, **step: Any) -> None:
        self.observation_space, self.first, self.later = space, first, [first] if later is None else later
        self.results = {"reward": 1.0, "terminated": False, "truncated": False, "info": {}, **step}
        self.time = 0

    def reset(self, *, seed=None, options=None):
        return self.first, {}

    def step(self, action):
        shown = self.later[self.time % len(self.later)]
        self.time += 1
        return (shown, *self.results.values())


class Resets(Shows):
    """Returns from `reset` what the given function makes of the observation."""

    def __init__(self, space: Any, first: Any, made: Any) -> None:
        super().__init__(space, first)
        self.made = made

    def reset(self, *, seed=None, options=None):
        return self.made(self.first)


def box(dtype: Any, shape: tuple[int, ...] = (1,), low: float = 0, high: float = 9) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def stepped(config: dict[str, Any], steps: int = 1, number: int = 2, kind: Any = Shows) -> Any:
    batch = make_batch(EnvironmentSpec(kind, config), np.random.SeedSequence(7).spawn(number))
    batch.reset()
    for _ in range(steps):
        batch.step(np.zeros(number, np.int64))
    return batch


LOST = [
    (box(np.uint8, high=255), np.array([0.7]), r"declared dtype uint8 can hold, got 0\.7 of dtype float64"),
    (box(np.uint8, high=255), np.array([300]), r"declared dtype uint8 can hold, got 300 of dtype int64"),
    (box(np.uint8, high=255), np.array([-1]), r"declared dtype uint8 can hold, got -1 of dtype int64"),
    (box(np.uint8, high=255), [0.5], r"declared dtype uint8 can hold, got 0\.5 of dtype float64"),
    (box(np.int64), np.array([2.9]), r"declared dtype int64 can hold, got 2\.9 of dtype float64"),
    (box(np.int64), np.array([np.nan]), r"declared dtype int64 can hold, got nan of dtype float64"),
    (spaces.Box(-128, 127, (1,), np.int8), np.array([200]), r"declared dtype int8 can hold, got 200 of dtype int64"),
    (box(np.float32), np.array([1e40]), r"declared dtype float32 can hold, got 1e\+40 of dtype float64"),
    (box(np.float16), np.array([7e4]), r"declared dtype float16 can hold, got 70000\.0 of dtype float64"),
    (box(np.uint8, (9, 9), high=255), np.full((9, 9), 256), r"declared dtype uint8 can hold, got 256 of dtype int64"),
    (spaces.Discrete(4), 1.5, r"whole numbers from 0 to 3, as declared, got 1\.5 of dtype float64"),
    (spaces.Discrete(4), 7, r"whole numbers from 0 to 3, as declared, got 7 of dtype int64"),
    (spaces.Discrete(4, start=2), np.int64(1), r"whole numbers from 2 to 5, as declared, got 1 of dtype int64"),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), r"whole numbers from \[0, 0\] to \[1, 2\], as declared, got 3"),
    (spaces.MultiBinary(2), [0, 2], r"whole numbers from 0 to 1, as declared, got 2 of dtype int64"),
    (box(np.float32), np.array([2 + 1j]), r"expected real numbers, got array\(\[2\.\+1\.j\]\) of dtype complex128"),
    (box(np.float32), np.ma.masked_array([5.0], [True]), r"expected numbers, got masked values in masked_array"),
    (box(np.float32), np.array(["3"]), r"expected real numbers, got array\(\['3'\].* of dtype <U1"),
    (box(np.float32), np.array([None]), r"expected real numbers, got array\(\[None\].* of dtype object"),
    (
        spaces.Dict({"a": box(np.uint8), "b": box(np.uint8)}),
        {"a": np.array([1]), "b": np.array([-1])},
        r"observation\.b: expected values that the declared dtype uint8 can hold, got -1",
    ),
]


@pytest.mark.parametrize(("space", "shown", "message"), LOST)
def test_a_value_that_the_declared_dtype_cannot_hold_is_an_error(space, shown, message):
    with pytest.raises(EnvironmentFailedError, match=rf"(?s)environment 'Shows': reset: .*{message}"):
        EnvironmentSpec(Shows, {"space": space, "first": shown}).probe()
    fine = space.sample()
    for at in (1, 2, 3):
        config = {"space": space, "first": fine, "later": [fine] * (at - 1) + [shown]}
        batch = stepped(config, steps=at - 1)
        with pytest.raises(EnvironmentFailedError, match=rf"(?s)number 0 of the batch, step .*: step: .*{message}"):
            batch.step(np.zeros(2, np.int64))
        batch.reset()


def test_a_lost_value_names_its_environment():
    received = ReceivedObservations(box(np.uint8), np.array([1]), 3)
    for env, value in enumerate((3.0, 4.0, 4.5)):
        received.write(env, np.array([value]))
    with pytest.raises(LostValueError, match=r"got 4\.5 of dtype float64") as caught:
        received.convert()
    assert caught.value.env == 2


@pytest.mark.parametrize("first", ["f2", "f8", "u8"])
def test_integers_of_64_bits_after_numbers_of_another_dtype_are_delivered_as_they_came(first):
    received = ReceivedObservations(spaces.Box(0, 1, (3,), np.int64), np.zeros(3, first), 1)
    for value in (2**53 + 1, 2**63 - 513, -(2**63)):
        received.write(0, np.full(3, value))
        received.convert()
        assert received.shown[0][0].tolist() == [value] * 3
    received.write(0, np.full(3, 0.5))
    with pytest.raises(LostValueError, match=r"got 0\.5 of dtype"):
        received.convert()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_delivered_equals_what_came_or_is_an_error(data):
    """Compares the batch with NumPy's own comparison, for any two dtypes of numbers, mixed within an episode."""
    kinds = st.sampled_from(["?", "u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i2"])
    declared = np.dtype(data.draw(kinds))
    space = spaces.Box(0, 1, (3,), declared)
    received = ReceivedObservations(space, np.zeros(3, data.draw(kinds)), 1)
    for _ in range(3):
        dtype = np.dtype(data.draw(kinds))
        elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        came = data.draw(arrays.arrays(dtype, 3, elements=elements))
        received.write(0, came)
        with np.errstate(all="ignore"):
            stored = came.astype(declared)
        kept = np.isfinite(stored).all() if declared.kind == "f" else np.array_equal(stored, came)
        if kept:
            received.convert()
            assert received.shown[0].dtype == declared.newbyteorder("=")
            np.testing.assert_array_equal(received.shown[0][0], stored)
        else:
            with np.errstate(all="ignore"), pytest.raises(LostValueError):
                received.convert()


@pytest.mark.parametrize(
    ("space", "shown", "delivered"),
    [
        (box(np.float32, (2,)), np.array([0.1, 0.2]), np.array([0.1, 0.2], np.float32)),
        (box(np.float32, (2,)), [1, 2], np.array([1, 2], np.float32)),
        (box(np.float32, (2,)), (0.5, 2), np.array([0.5, 2], np.float32)),
        (box(np.float32, (2,)), np.array([1, 2.5], object), np.array([1, 2.5], np.float32)),
        (box(np.float32, (2,)), np.ma.masked_array([5.0, 6.0], [False, False]), np.array([5, 6], np.float32)),
        (box(np.float32, (2,)), np.array([np.inf, 1]), np.array([np.inf, 1], np.float32)),
        (box(np.uint8, (2,)), np.array([3.0, 4.0]), np.array([3, 4], np.uint8)),
        (box(np.int8, (2,)), np.array([3, 4]), np.array([3, 4], np.int8)),
        (box(np.float32, (0,)), np.zeros(0, np.float32), np.zeros(0, np.float32)),
        (box(np.dtype(">f4"), (2,)), np.array([1, 2], ">f4"), np.array([1, 2], np.float32)),
        (box(np.longdouble, (2,)), np.array([1, 2], np.longdouble), np.array([1, 2], np.float64)),
        (spaces.Discrete(9), np.int32(4), np.int64(4)),
        (spaces.Discrete(9), 4.0, np.int64(4)),
        (spaces.MultiBinary(2), np.array([True, False]), np.array([1, 0], np.int8)),
    ],
)
def test_numbers_that_fit_are_delivered_in_the_declared_dtype(space, shown, delivered):
    batch = stepped({"space": space, "first": shown}, steps=3)
    for column in (batch.observations[0], batch.final_observations[0]):
        assert column.dtype == delivered.dtype
        np.testing.assert_array_equal(column, [delivered, delivered])


SEEN = [
    (spaces.Discrete(16), (1, 2), np.array([1, 2]), r"Discrete\(16\).*int64 of shape \(2,\)"),
    (spaces.Discrete(16), np.array([3]), np.array([3]), r"Discrete\(16\).*int64 of shape \(1,\)"),
    (spaces.Discrete(3), [0.0, 1.0, 0.0], np.array([0, 1, 0], np.float32), r"Discrete\(3\).*float64 of shape \(3,\)"),
    (box(np.float32, (4,)), np.zeros((2, 2)), np.zeros((2, 2), np.float32), r"\(4,\).*float64 of shape \(2, 2\)"),
    (box(np.uint8, (4,)), np.full(2, 0.5), np.full(2, 0.5), r"uint8.*float64 of shape \(2,\)"),
    (spaces.Tuple([spaces.Discrete(4)] * 2), 3, np.array(3), r"Tuple.*int64 of shape \(\)"),
    (box(np.float32, (2,)), 0.5, np.array(0.5, np.float32), r"Box.*float64 of shape \(\)"),
]


@pytest.mark.parametrize(("space", "shown", "delivered", "message"), SEEN)
def test_the_shape_of_the_first_observation_wins_over_the_declared_one(space, shown, delivered, message):
    with pytest.warns(
        UserWarning, match=rf"environment 'Shows': expected observations of .*{message} from reset"
    ) as seen:
        batch = stepped({"space": space, "first": shown}, steps=3)
    assert len(seen) == 1
    assert batch.observations[0].dtype == delivered.dtype
    np.testing.assert_array_equal(batch.observations[0], [delivered, delivered])
    assert list(observation_leaves(batch.observation_space).values()) == [(delivered.dtype, delivered.shape)]


def test_only_the_part_that_differs_is_replaced():
    space = spaces.Dict({"place": spaces.Discrete(9), "goal": box(np.uint8, (2,))})
    with pytest.warns(UserWarning, match=r"got a dict with \['extra', 'goal', 'place'\] from reset"):
        batch = stepped({"space": space, "first": {"place": (1, 2), "goal": np.array([3, 4]), "extra": "not declared"}})
    assert batch.leaves == {".goal": (np.uint8, (2,)), ".place": (np.int64, (2,))}
    with pytest.warns(UserWarning, match=r"expected observations of Discrete\(9\).* got a dict with \['a', 'b'\]"):
        batch = stepped({"space": spaces.Discrete(9), "first": {"a": 1.5, "b": [1, 2]}})
    assert batch.leaves == {".a": (np.float32, ()), ".b": (np.int64, (2,))}


def test_parts_that_are_no_numbers_are_left_out_with_a_warning():
    inner = spaces.Dict({"hint": spaces.Text(5), "at": spaces.Discrete(9)})
    space = spaces.Dict({"image": box(np.uint8, (2,)), "mission": spaces.Text(9), "inner": inner})
    first = {"image": np.array([1, 2], np.uint8), "mission": "go", "inner": {"hint": "left", "at": 4}}
    with pytest.warns(UserWarning, match=r"got 'inner\.hint' \(Text\), 'mission' \(Text\), which no column") as seen:
        batch = stepped({"space": space, "first": first}, steps=3)
    assert len(seen) == 1
    assert batch.leaves == {".image": (np.uint8, (2,)), ".inner.at": (np.int64, ())}
    assert [part.tolist() for part in batch.observations] == [[[1, 2], [1, 2]], [4, 4]]


def test_a_later_observation_of_another_shape_is_an_error():
    config = {"space": spaces.Discrete(16), "first": (1, 2), "later": [(1, 2), (1, 2, 3)]}
    with pytest.warns(UserWarning, match="Discrete"):
        batch = stepped(config)
    with pytest.raises(EnvironmentFailedError, match=r"expected shape \(2,\), got \(3,\) of dtype int64"):
        batch.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("space", [None, "anything", 7])
def test_an_observation_space_of_no_known_kind_is_inferred(space):
    batch = stepped({"space": space, "first": [1.0, 2.0]})
    assert batch.leaves == {"": (np.float32, (2,))}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Dict({"a.b": box(np.float32), "a": spaces.Dict({"b": box(np.float32)})}),
            r"expected parts whose names give different columns, got two parts for the column 'state\.a\.b'",
        ),
        (spaces.Text(3), r"expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got Text"),
    ],
)
def test_spaces_without_columns_are_refused(space, message):
    with pytest.raises(InvalidTypeError, match=message):
        EnvironmentSpec(Shows, {"space": space, "first": space.sample()}).probe()


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(2, 2.0), (True, 1.0), (np.float64(0.5), 0.5), (np.array([1.5]), 1.5), (np.array([[3]]), 3.0), ([4.0], 4.0)],
)
def test_a_reward_is_a_number_or_an_array_of_one(reward, expected):
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32), "reward": reward}
    assert stepped(config, steps=3).rewards.tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"reward": np.zeros(2)}, r"reward: expected one number, got an array of shape \(2,\)"),
        ({"reward": None}, r"reward: expected one number, got None \(NoneType\)"),
        ({"reward": "1.5"}, r"reward: expected one number, got '1\.5' \(str\)"),
        ({"reward": 1j}, r"reward: expected one number, got 1j \(complex\)"),
        ({"terminated": "False"}, r"terminated: expected True or False, got 'False' \(str\)"),
        ({"terminated": {"a": False}}, r"terminated: expected True or False, got \{'a': False\} \(dict\)"),
        ({"truncated": {}}, r"truncated: expected True or False, got \{\} \(dict\)"),
        ({"truncated": 0.5}, r"truncated: expected True or False, got 0\.5 \(float\)"),
        ({"terminated": np.zeros(2, bool)}, r"terminated: expected True or False, got array"),
    ],
)
def test_a_reward_or_flag_of_another_type_is_an_error(step, message):
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32)}
    batch = stepped(config | step, steps=0)
    with pytest.raises(EnvironmentFailedError, match=rf"step: TypeError: {message}"):
        batch.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("flag", [{"a": False}, "False", 3])
def test_a_later_flag_that_python_takes_for_true_is_an_error(flag):
    class Later(Shows):
        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, flag if self.time > 2 else False, truncated, info

    batch = stepped({"space": box(np.float32), "first": np.zeros(1, np.float32)}, steps=2, kind=Later)
    with pytest.raises(EnvironmentFailedError, match=r"terminated: expected True or False, got"):
        batch.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("ended", [1, np.True_, np.array([True]), np.array(1)])
def test_flags_of_other_types_that_say_true_end_an_episode(ended):
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32), "terminated": ended, "truncated": None}
    batch = stepped(config, steps=2)
    assert batch.terminated.tolist() == [True, True]
    assert batch.truncated.tolist() == [False, False]


@pytest.mark.parametrize("made", [lambda seen: (seen, None), lambda seen: (seen, types.MappingProxyType({}))])
def test_info_of_reset_may_be_none_or_any_mapping(made):
    config = {"space": box(np.float32, (2,)), "first": np.ones(2, np.float32), "made": made}
    assert stepped(config, kind=Resets).observations[0].tolist() == [[1, 1], [1, 1]]
    config["made"] = lambda seen: [seen, {}]
    assert stepped(config, kind=Resets).observations[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("size", [2, 3])
def test_an_info_of_another_type_is_ignored_with_a_warning(size):
    config = {
        "space": box(np.float32, (2,)),
        "first": np.ones(2, np.float32),
        "made": lambda seen: (seen, np.ones(size)),
    }
    with pytest.warns(UserWarning, match=r"with a dict as info, got ndarray, which is ignored") as seen:
        batch = stepped(config, kind=Resets)
    assert len(seen) == 1
    assert batch.observations[0].tolist() == [[1, 1], [1, 1]]


def test_results_of_reset_that_are_no_observation_are_an_error():
    config = {"space": box(np.float32, (2,)), "first": np.ones(2), "made": lambda seen: (seen, 0.0, {})}
    message = (
        r"expected an observation, or \(observation, info\) with a dict as info, got a tuple of 3: ndarray, float, dict"
    )
    with pytest.raises(EnvironmentFailedError, match=message):
        EnvironmentSpec(Resets, config).probe()


def test_a_pair_is_an_observation_where_the_space_says_so():
    pair = spaces.Tuple([box(np.float32), spaces.Dict({"a": box(np.float32)})])
    one = np.ones(1, np.float32)
    assert list(stepped({"space": pair, "first": one, "made": lambda x: (x, {"a": x})}, 0, kind=Resets).leaves) == [
        ".0",
        ".1.a",
    ]
    frames = {"space": box(np.float32, (2, 1)), "first": one, "made": lambda x: (x, x)}
    assert stepped(frames, steps=0, kind=Resets).observations[0].shape == (2, 2, 1)
    with pytest.warns(UserWarning, match=r"int64 of shape \(2,\)"):
        place = stepped({"space": spaces.Discrete(9), "first": (1, 2), "made": lambda x: x}, 0, kind=Resets)
    assert place.observations[0].tolist() == [[1, 2], [1, 2]]


def test_an_error_of_close_is_a_warning():
    class Breaks(Shows):
        def close(self):
            raise OSError("already gone")

    config = {"space": box(np.float32), "first": np.zeros(1, np.float32)}
    with pytest.warns(UserWarning, match=r"'Breaks': expected close to succeed, got OSError: already gone"):
        batch = stepped(config, kind=Breaks)
    with pytest.warns(UserWarning, match="close"):
        batch.close()


def tabular(size: int) -> Any:
    import tensorflow as tf

    state = tf.keras.Input((size,))
    ones = tf.keras.layers.Concatenate()([state, tf.keras.layers.Lambda(lambda x: tf.ones_like(x[:, :1]))(state)])
    return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(2)(ones if size else state)})


def manager(config: dict[str, Any], size: int = 1, **options: Any) -> SampleManager:
    options = {"num_steps": 3, "use_ray": False, "model_kwargs": {"size": size}, "env_config": config, **options}
    return SampleManager(tabular, Shows, 1, 3, **options)


def test_empty_observations_are_delivered_and_stored():
    with manager({"space": box(np.float32, (0,)), "first": np.zeros(0, np.float32)}, 0) as collecting:
        assert collecting.get_data()["state"].shape == (3, 0)
        collecting.initilize_buffer(10)
        collecting.collect(3)
        assert collecting.sample(4)["state_new"].shape == (4, 0)


def test_an_infinite_observation_is_named_instead_of_the_model():
    shown = np.full(1, np.inf, np.float32)
    with (
        manager({"space": box(np.float32), "first": shown}) as collecting,
        pytest.raises(EnvironmentFailedError, match=r"finite numbers in 'state', as the model's .* got inf"),
    ):
        collecting.get_data()


@pytest.mark.parametrize("reward", [1e40, -(10**39), np.array(1e40), np.array([1e40]), np.longdouble(1e40)])
def test_a_reward_beyond_float32_is_an_error_unless_it_is_clipped(reward):
    """The error is the only message: NumPy's warning of an overflow would be an error here."""
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32), "reward": reward}
    with manager(config) as collecting, pytest.raises(EnvironmentFailedError, match=r"'reward', at most 3\.4e38"):
        collecting.get_data()
    with manager(config, reward_clip=1) as collecting:
        assert collecting.get_data()["reward"].tolist() == [np.sign(reward)] * 3


@pytest.mark.parametrize("reward", [np.array([1.0, 1e40]), [1, 10**39]])
def test_a_vector_reward_beyond_float32_is_an_error(reward):
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32), "reward": reward}
    with (
        manager(config, reward_shape=(2,)) as collecting,
        pytest.raises(EnvironmentFailedError, match=r"'reward', at most 3\.4e38"),
    ):
        collecting.get_data()


@pytest.mark.parametrize("reward", [-2, 2.5, True, np.float64(0.1), np.float32(0.1), np.float16(0.1), np.int64(-3)])
def test_a_reward_of_each_type_of_number_is_rounded_as_numpy_rounds_it(reward):
    config = {"space": box(np.float32), "first": np.zeros(1, np.float32), "reward": reward}
    with manager(config) as collecting:
        assert collecting.get_data()["reward"].tolist() == [np.float32(reward)] * 3


def test_a_grid_world_that_declares_numbers_and_returns_places_trains():
    config = {"space": spaces.Discrete(16), "first": (0, 0), "later": [(0, 1), (1, 1)], "info": None}
    with pytest.warns(UserWarning, match="Discrete"):
        made = manager(config, 2)
    with made as collecting:
        data = collecting.get_data()
        assert data["state_new"].tolist() == [[0, 1], [1, 1], [0, 1]]
        assert collecting.get_agent().act((0, 1)).shape == ()
        assert collecting.test(5, test_episodes=1) == [5]


class Shown(gymnasium.vector.VectorEnv):
    """A vector environment that shows the given observation; `breaks` raises in `close`."""

    metadata: dict[str, Any] = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int, space: Any, first: Any, later: Any, breaks: bool = False, reward: float = 1.0
    ) -> None:
        self.num_envs, self.single_observation_space, self.single_action_space = num_envs, space, spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.first, self.later, self.breaks, self.reward = first, later, breaks, reward

    def reset(self, *, seed=None, options=None):
        return np.stack([self.first] * self.num_envs), {}

    def step(self, actions):
        no = np.zeros(self.num_envs, bool)
        return np.stack([self.later] * self.num_envs), np.full(self.num_envs, self.reward), no, no, {}

    def close(self, **_):
        if self.breaks:
            raise OSError("already gone")


@pytest.mark.parametrize(
    ("space", "first", "later", "message"),
    [
        (box(np.uint8), np.array([3]), np.array([0.5]), r"declared dtype uint8 can hold, got 0\.5 of dtype float64"),
        (box(np.float32), np.array([3.0]), np.array([1e40]), r"dtype float32 can hold, got 1e\+40 of dtype float64"),
        (spaces.Discrete(4), np.int64(3), np.int64(7), r"whole numbers from 0 to 3, as declared, got 7"),
        (box(np.float32), np.array([3.0]), np.array(["3"]), r"expected real numbers, got array"),
    ],
)
def test_a_value_of_a_vector_environment_that_the_dtype_cannot_hold_is_an_error(space, first, later, message):
    config = {"space": space, "first": first, "later": later}
    batch = make_batch(EnvironmentSpec(Shown, config), np.random.SeedSequence(7).spawn(2), vector="native")
    batch.reset()
    assert batch.observations[0].tolist() == [np.asarray(first).tolist()] * 2
    with pytest.raises(EnvironmentFailedError, match=rf"(?s)'Shown', one of 2 in a batch, step 0 .*{message}"):
        batch.step(np.zeros(2, np.int64))


def test_a_reward_of_a_vector_environment_beyond_float32_is_infinite_as_any_other():
    """The delivery of its row raises the error, as for other environments."""
    config = {"space": box(np.float32), "first": np.zeros(1), "later": np.zeros(1), "reward": 1e40}
    batch = make_batch(EnvironmentSpec(Shown, config), np.random.SeedSequence(7).spawn(2), vector="native")
    batch.reset()
    batch.step(np.zeros(2, np.int64))
    assert batch.rewards.tolist() == [np.inf, np.inf]


def test_the_shape_that_a_vector_environment_returns_wins():
    config = {"space": spaces.Discrete(4), "first": np.array([1.5, 2]), "later": np.array([0.5, 1])}
    with pytest.warns(UserWarning, match=r"expected observations of Discrete\(4\).* float64 of shape \(2,\)"):
        batch = make_batch(EnvironmentSpec(Shown, config), np.random.SeedSequence(7).spawn(2), vector="native")
    batch.reset()
    batch.step(np.zeros(2, np.int64))
    assert batch.observations[0].tolist() == [[0.5, 1], [0.5, 1]]


def test_an_error_of_a_vector_environments_close_is_a_warning():
    config = {"space": box(np.float32), "first": np.zeros(1), "later": np.zeros(1), "breaks": True}
    with pytest.warns(UserWarning, match=r"expected close to succeed, got OSError: already gone"):
        batch = make_batch(EnvironmentSpec(Shown, config), np.random.SeedSequence(7).spawn(2), vector="native")
    with pytest.warns(UserWarning, match=r"'Shown': expected close to succeed"):
        batch.close()
