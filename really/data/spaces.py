"""Spaces as columns: the leaves of an observation space, and the nested observation that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really.data.schema import ColumnSpec, Spec
from really.errors import InvalidTypeError


def observation_leaves(space: spaces.Space[Any]) -> Spec:
    """The arrays (leaves) that make up one observation of `space`, in the order of the columns.

    The name of a leaf is what follows `state` in the name of its column: '' for a plain space, '.key' for a part of a
    Dict or Tuple, '.key.key' for a nested part.
    """
    return {name: ColumnSpec(dtype_of(leaf), shape_of(leaf)) for name, leaf in _walk(space, "")}


def flatten(space: spaces.Space[Any], observation: Any) -> list[Any]:
    """The leaves of one observation (or of a batch with a leading axis), in `observation_leaves` order."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.items() for leaf in flatten(part, observation[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for at, part in enumerate(space) for leaf in flatten(part, observation[at])]
    return [observation]


def nest(space: spaces.Space[Any], leaves: Sequence[Any]) -> Any:
    """The leaves in the structure of `space`: the input of a model for Dict or Tuple observations."""
    return _nest(space, iter(leaves))


def shape_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Shape of one element: `()` for a Discrete."""
    return () if space.shape is None else tuple(space.shape)


def dtype_of(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Dtype of one element: int64 for a Discrete."""
    return np.dtype(np.int64) if isinstance(space, spaces.Discrete) else np.dtype(space.dtype)


def action_bounds(space: spaces.Space[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Lowest and highest number of each part of a discrete action, both included. Returns None for a Box."""
    if isinstance(space, spaces.Box):
        return None
    sizes = {spaces.MultiDiscrete: "nvec", spaces.Discrete: "n"}
    size = getattr(space, sizes[type(space)]) if type(space) in sizes else np.full(shape_of(space), 2)
    low = np.broadcast_to(np.asarray(getattr(space, "start", 0), np.int64), np.shape(size))
    return low, low + np.asarray(size, np.int64) - 1


def to_gymnasium(space: Any) -> spaces.Space[Any]:
    """The gymnasium space equal to `space`, which may also be a space of gym (recognised by its class name).

    Raises InvalidTypeError for anything else.
    """
    if isinstance(space, spaces.Space):
        return space
    kind = type(space).__name__
    if kind not in CONVERSIONS:
        raise InvalidTypeError(f"space: expected one of gymnasium's or gym's, got {type(space)}: {space!r}")
    return CONVERSIONS[kind](space)


def infer_space(observation: Any) -> spaces.Space[Any]:
    """An unbounded Box for observations like this one. Lists of float64 give float32; arrays keep their dtype.

    A dict of observations gives a Dict of Boxes. Raises InvalidTypeError if it is no array of numbers.
    """
    if isinstance(observation, dict):
        return spaces.Dict({key: infer_space(part) for key, part in observation.items()})
    array = np.asarray(observation)
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"reset observation: expected an array of numbers, from which the missing observation_space can be "
            f"inferred, got {type(observation)} of dtype {array.dtype}"
        )
    dtype = array.dtype
    if dtype == np.float64 and not isinstance(observation, np.ndarray):
        dtype = np.dtype(np.float32)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, array.shape, dtype.type)
    if dtype.kind == "b":
        return spaces.Box(0, 1, array.shape, np.bool_)
    return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, array.shape, dtype.type)


CONVERSIONS: dict[str, Callable[[Any], spaces.Space[Any]]] = {
    "Box": lambda space: spaces.Box(space.low, space.high, space.shape, space.dtype),
    "Discrete": lambda space: spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0))),
    "MultiDiscrete": lambda space: spaces.MultiDiscrete(space.nvec),
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
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
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
