"""Spaces as columns: the leaves of an observation space, and back from leaves to what a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from really.errors import InvalidTypeError


@dataclass(frozen=True)
class Leaf:
    """One array of an observation: `name` is '' for a plain space, else '.key' (nested: '.key.key')."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def observation_leaves(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The arrays that one observation of `space` consists of, in the order in which columns stand."""
    return tuple(Leaf(name, shape_of(leaf), dtype_of(leaf)) for name, leaf in _walk(space, ""))


def flatten(space: spaces.Space[Any], observation: Any) -> list[Any]:
    """The leaves of one observation (or of a batch with a leading axis), in `observation_leaves` order."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.items() for leaf in flatten(part, observation[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for at, part in enumerate(space) for leaf in flatten(part, observation[at])]
    return [observation]


def nest(space: spaces.Space[Any], leaves: Sequence[Any]) -> Any:
    """The structure of `space` with `leaves` in it: what a model with Dict or Tuple observations takes."""
    return _nest(space, iter(leaves))


def shape_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Shape of one element; `()` for a Discrete."""
    return () if space.shape is None else tuple(space.shape)


def dtype_of(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Dtype of one element; int64 for a Discrete."""
    return np.dtype(np.int64) if isinstance(space, spaces.Discrete) else np.dtype(space.dtype)


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
            f"observation space{name}: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, "
            f"came {space}"
        )


def _nest(space: spaces.Space[Any], leaves: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nest(part, leaves) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nest(part, leaves) for part in space)
    return next(leaves)
