"""Spaces as columns: names, shapes and dtypes of leaves, and flatten and nest as inverses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from really.data.spaces import action_bounds, flatten, infer_space, nest, observation_leaves, to_gymnasium
from really.errors import InvalidTypeError

PLAIN: list[tuple[spaces.Space[Any], tuple[int, ...], type[np.generic]]] = [
    (spaces.Box(-1, 1, (2, 3), np.float64), (2, 3), np.float64),
    (spaces.Box(0, 255, (4, 4, 1), np.uint8), (4, 4, 1), np.uint8),
    (spaces.Box(-1, 1, (), np.float32), (), np.float32),
    (spaces.Discrete(5, start=2), (), np.int64),
    (spaces.MultiDiscrete([2, 3, 4]), (3,), np.int64),
    (spaces.MultiDiscrete([[2, 3]], dtype=np.int32), (1, 2), np.int32),
    (spaces.MultiBinary((2, 2)), (2, 2), np.int8),
]
LEAVES = st.sampled_from([space for space, *_ in PLAIN])
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(("space", "shape", "dtype"), PLAIN, ids=[str(space) for space, *_ in PLAIN])
def test_a_plain_space_is_one_leaf_without_a_name(space: Any, shape: tuple[int, ...], dtype: Any) -> None:
    assert observation_leaves(space) == {"": (np.dtype(dtype), shape)}


def test_leaves_are_named_by_their_path() -> None:
    inner = spaces.Tuple([spaces.Discrete(2), spaces.Dict({"x": spaces.Discrete(2), "y": spaces.MultiBinary(2)})])
    space = spaces.Dict({"b": spaces.Box(0, 1, (3,)), "a": inner})
    names = {"a": [".a.0", ".a.1.x", ".a.1.y"], "b": [".b"]}
    assert list(observation_leaves(space)) == [name for key in space for name in names[key]]


def assert_same(got: Any, expected: Any) -> None:
    assert type(got) is type(expected) or not isinstance(expected, dict | tuple)
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for name, part in expected.items():
            assert_same(got[name], part)
    elif isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(got, expected)


@settings(deadline=None, max_examples=60)
@given(NESTED)
def test_flatten_and_nest_are_each_others_inverse(space: Any) -> None:
    space.seed(0)
    observation = space.sample()
    leaves = flatten(space, observation)
    kinds = observation_leaves(space).values()
    assert [np.shape(leaf) for leaf in leaves] == [kind.shape for kind in kinds]
    assert all(np.asarray(leaf).dtype == kind.dtype for leaf, kind in zip(leaves, kinds, strict=True))
    assert len(kinds) == len(leaves)
    assert_same(nest(space, leaves), observation)


@pytest.mark.parametrize(
    "space", [spaces.Text(5), spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), spaces.Tuple([spaces.Text(3)])]
)
def test_unsupported_spaces_are_refused_with_their_name(space: Any) -> None:
    part = {"Dict": r"\.a", "Tuple": r"\.0"}.get(type(space).__name__, "")
    with pytest.raises(InvalidTypeError, match=rf"observation space{part}: expected Box, .* got (Text|Sequence)"):
        observation_leaves(space)


def test_to_gymnasium_returns_its_spaces_unchanged_and_refuses_other_objects() -> None:
    space = spaces.Discrete(3)
    assert to_gymnasium(space) is space
    with pytest.raises(InvalidTypeError, match=r"space: expected one of gymnasium's or gym's, got <class 'int'>: 3"):
        to_gymnasium(3)


class Directions(spaces.Discrete):
    """A space of a user's own class."""


class Levers(spaces.MultiDiscrete):
    """Likewise."""


def test_the_actions_of_a_derived_space_are_those_of_its_base() -> None:
    derived = Directions(5, start=2), Levers([2, 3], np.int32, start=np.array([1, 0]))
    plain = spaces.Discrete(5, start=2), spaces.MultiDiscrete([2, 3], np.int32, start=np.array([1, 0]))
    for one, other in zip(derived, plain, strict=True):
        assert_same(action_bounds(one), action_bounds(other))
    low, high = action_bounds(derived[0])
    assert (low, high) == (2, 6)
    assert_same(action_bounds(spaces.MultiBinary((2, 1))), (np.zeros((2, 1)), np.ones((2, 1))))


def test_a_space_of_gym_is_told_by_the_name_of_its_class_or_of_a_base() -> None:
    class Discrete:
        n, start = 4, 1

    class Choices(Discrete):
        n = 3

    class MultiDiscrete:
        nvec, dtype = np.array([2, 3]), np.dtype(np.int32)

    assert to_gymnasium(Choices()) == spaces.Discrete(3, start=1)
    assert to_gymnasium(MultiDiscrete()) == spaces.MultiDiscrete([2, 3], np.int32)
    assert to_gymnasium(MultiDiscrete()).dtype == np.int32


def test_a_dict_space_is_inferred_from_a_dict() -> None:
    space = infer_space({"a": [1.0, 2.0], "b": np.zeros((2, 2), np.uint8), "c": np.array([True])})
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in observation_leaves(space).items()} == {
        ".a": ((2,), np.float32),
        ".b": ((2, 2), np.uint8),
        ".c": ((1,), np.bool_),
    }


@pytest.mark.parametrize("observation", ["up", None, {"a": "up"}])
def test_no_space_is_inferred_from_other_things_than_numbers(observation: Any) -> None:
    with pytest.raises(InvalidTypeError, match="reset observation: expected an array of numbers"):
        infer_space(observation)
