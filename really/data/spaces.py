"""Spaces as columns: the leaves of an observation space, and the nested observation that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.checks import why_no_array
from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError

LEAVES = spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary
"""Kinds of spaces whose observations are arrays."""
NUMBERS = "biuf"
"""Kinds of dtypes that columns of observations have: bool, integers, floats."""


def observation_leaves(space: spaces.Space[Any]) -> Spec:
    """The arrays (leaves) that make up one observation of `space`, in the order of the columns.

    The name of a leaf is what follows `state` in the name of its column: '' for a plain space, '.key' for a part of a
    Dict or Tuple, '.key.key' for a nested part.

    Raises InvalidTypeError for a space that has no such arrays, and if two parts would have one name.
    """
    return {name: ColumnSpec(dtype_of(leaf), shape_of(leaf)) for name, leaf in leaf_spaces(space).items()}


def leaf_spaces(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The space of each leaf, with the names, the order and the errors of `observation_leaves`."""
    found: dict[str, spaces.Space[Any]] = {}
    for name, leaf in _walk(space, ""):
        if name in found:
            raise InvalidTypeError(
                f"observation space: expected parts whose names give different columns, got two parts for the column "
                f"'state{name}' in {space}"
            )
        found[name] = leaf
    return found


def flatten(space: spaces.Space[Any], observation: Any) -> list[Any]:
    """The leaves of one observation (or of a batch with a leading axis), in `observation_leaves` order."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.items() for leaf in flatten(part, observation[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for at, part in enumerate(space) for leaf in flatten(part, observation[at])]
    return [observation]


def no_observation(space: spaces.Space[Any], given: Any) -> InvalidTypeError:
    """The error for what a library takes for no observation, such as the whole of what `step` returns, text or None."""
    if (told := why_no_array(given)) is not None:
        return InvalidTypeError(f"state: {told}")
    got, hint = f"{given!r:.80} ({type(given).__name__})", ""
    if isinstance(given, tuple | list):
        got = f"a {type(given).__name__} of {', '.join(type(part).__name__ for part in given[:6])}"
        if given and isinstance(given[-1], Mapping) and not isinstance(space, spaces.Tuple):
            hint = "; the observation is the first part of what reset() and step() return"
    return InvalidTypeError(f"state: expected an observation of {space}, or a batch of them, got {got}{hint}")


def nest(space: spaces.Space[Any], leaves: Sequence[Any]) -> Any:
    """The leaves in the structure of `space`: the input of a model for Dict or Tuple observations."""
    return _nest(space, iter(leaves))


def shape_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Shape of one element: `()` for a Discrete."""
    return () if space.shape is None else tuple(space.shape)


def dtype_of(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Dtype of one element, in native byte order: int64 for a Discrete, float64 for a longdouble."""
    if isinstance(space, spaces.Discrete):
        return np.dtype(np.int64)
    dtype: np.dtype[Any] = np.dtype(np.dtype(space.dtype).type)
    return np.dtype(np.float64) if dtype == np.longdouble else dtype


def action_bounds(space: spaces.Space[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Lowest and highest number of each part of a discrete action, both included. Returns None for a Box."""
    if isinstance(space, spaces.Box):
        return None
    size: Any = np.full(shape_of(space), 2)
    if isinstance(space, spaces.MultiDiscrete):
        size = space.nvec
    elif isinstance(space, spaces.Discrete):
        size = space.n
    low = np.broadcast_to(np.asarray(getattr(space, "start", 0), np.int64), np.shape(size))
    return low, low + np.asarray(size, np.int64) - 1


def to_gymnasium(space: Any) -> spaces.Space[Any]:
    """The gymnasium space equal to `space`, which may also be a space of gym.

    The name of its class, or of a base of that, tells the kind of a space of gym.
    Raises InvalidTypeError for anything else.
    """
    if isinstance(space, spaces.Space):
        return space
    for base in type(space).__mro__:
        if base.__name__ in CONVERSIONS:
            return CONVERSIONS[base.__name__](space)
    raise InvalidTypeError(f"space: expected one of gymnasium's or gym's, got {type(space)}: {space!r}")


def native_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same space in dtypes that columns have, as `dtype_of` says; the space itself if it has no others."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: native_space(part) for key, part in space.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([native_space(part) for part in space])
    if isinstance(space, spaces.Box) and space.dtype != dtype_of(space):
        dtype = dtype_of(space).type
        return spaces.Box(space.low.astype(dtype), space.high.astype(dtype), dtype=dtype)
    return space


def infer_space(observation: Any) -> spaces.Space[Any]:
    """An unbounded Box for observations like this one. Lists of float64 give float32; arrays keep their dtype.

    A dict of observations gives a Dict of Boxes. Raises InvalidTypeError if it is no array of numbers.
    """
    if isinstance(observation, dict):
        return spaces.Dict({key: infer_space(part) for key, part in observation.items()})
    array = np.asarray(observation)
    if array.dtype.kind not in NUMBERS:
        raise InvalidTypeError(
            f"reset observation: expected an array of numbers, from which the missing observation_space can be "
            f"inferred, got {type(observation)} of dtype {array.dtype}"
        )
    dtype = array.dtype
    if dtype == np.float64 and not isinstance(observation, np.ndarray):
        dtype = np.dtype(np.float32)
    return unbounded_box(array.shape, dtype)


def unbounded_box(shape: tuple[int, ...], dtype: np.dtype[Any]) -> spaces.Box:
    """The Box of all arrays of this shape and dtype, which is one of numbers or bool."""
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    if dtype.kind == "b":
        return spaces.Box(0, 1, shape, np.bool_)  # type: ignore[arg-type]
    return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype.type)


CONVERSIONS: dict[str, Callable[[Any], spaces.Space[Any]]] = {
    "Box": lambda space: spaces.Box(space.low, space.high, space.shape, space.dtype),
    "Discrete": lambda space: spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0))),
    "MultiDiscrete": lambda space: spaces.MultiDiscrete(space.nvec, space.dtype),
    "MultiBinary": lambda space: spaces.MultiBinary(space.n),
    "Dict": lambda space: spaces.Dict({key: to_gymnasium(part) for key, part in space.spaces.items()}),
    "Tuple": lambda space: spaces.Tuple([to_gymnasium(part) for part in space.spaces]),
}


def _walk(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from _walk(part, f"{name}.{key}")
    elif isinstance(space, spaces.Tuple):
        for at, part in enumerate(space):
            yield from _walk(part, f"{name}.{at}")
    elif isinstance(space, LEAVES):
        yield name, space
    else:
        raise InvalidTypeError(
            f"observation space{name}: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got {space}"
        )


def _nest(space: spaces.Space[Any], leaves: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nest(part, leaves) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nest(part, leaves) for part in space)
    return next(leaves)
