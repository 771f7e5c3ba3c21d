"""The space of the observations that an environment returns, and the shape in which the user wants them."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium import spaces

from really.data.spaces import (
    LEAVES,
    dtype_of,
    infer_space,
    native_space,
    observation_leaves,
    to_gymnasium,
    unbounded_box,
)
from really.envs.received import as_numbers
from really.envs.results import fits
from really.errors import InvalidTypeError


def declared_space(env: Any) -> spaces.Space[Any] | None:
    """The observation space that `env` declares. None if it declares none, or one of an unknown kind."""
    with suppress(InvalidTypeError):
        return to_gymnasium(getattr(env, "observation_space", None))
    return None


def observed_space(name: str, declared: spaces.Space[Any] | None, observation: Any) -> spaces.Space[Any]:
    """The declared space if `observation`, that of a reset, has its parts and shapes. Else one that it fits.

    The observation wins, with a warning that tells what was declared and what was seen. The declared dtype stays where
    it holds such numbers: values that it cannot hold are an error of the environment (`ReceivedObservations`). Parts of
    a Dict that are no numbers, such as a mission in words, are left out with a warning.

    Raises:
        InvalidTypeError: the space is of a kind that has no columns, or the observation consists of no numbers.
    """
    if declared is None:
        return infer_space(observation)
    declared = _without_text(name, declared)
    observation_leaves(declared)
    declared = native_space(declared)
    if fits(declared, observation):
        return declared
    seen = _seen(declared, observation)
    warnings.warn(
        f"environment {name!r}: expected observations of {declared}, as its observation_space declares, got "
        f"{_described(observation)} from reset; observations are taken as {_columns(seen)}",
        stacklevel=2,
    )
    return seen


def _without_text(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A Dict without those parts that have no columns; the space itself if there are none, or nothing else."""
    left_out: list[str] = []
    kept = _kept(space, "", left_out)
    if not left_out or kept is None:
        return space
    warnings.warn(
        f"environment {name!r}: expected parts of the observation_space that consist of numbers, got "
        f"{', '.join(left_out)}, which no column can have and no model gets",
        stacklevel=2,
    )
    return kept


def _kept(space: spaces.Space[Any], name: str, left_out: list[str]) -> spaces.Space[Any] | None:
    if not isinstance(space, spaces.Dict):
        if isinstance(space, (*LEAVES, spaces.Tuple)):
            return space
        left_out.append(f"{name.removeprefix('.')!r} ({type(space).__name__})")
        return None
    parts = {key: _kept(part, f"{name}.{key}", left_out) for key, part in space.items()}
    kept = {key: part for key, part in parts.items() if part is not None}
    return spaces.Dict(kept) if kept else None


def asked_shape(input_shape: Any) -> tuple[int, ...] | None:
    """The shape of one observation that the argument `input_shape` asks for. None if it is no shape."""
    if input_shape is None or isinstance(input_shape, bool | str):
        return None
    sizes = input_shape if isinstance(input_shape, Iterable) else [input_shape]
    with suppress(TypeError):
        shape = tuple(operator.index(size) for size in sizes)
        return shape if min(shape, default=1) > 0 else None
    return None


def shaped_space(seen: spaces.Space[Any], shape: tuple[int, ...] | None) -> spaces.Space[Any]:
    """The space of the same observations in another shape, if `shape` has as many numbers. Else `seen` itself.

    `(1, *seen.shape)` is taken for the observation's own shape with the batch axis, so it changes nothing. One float is
    the exception: it becomes an array of one, as dense layers need.
    """
    if shape is None or not isinstance(seen, spaces.Box) or math.prod(shape) != math.prod(seen.shape):
        return seen
    is_number = not seen.shape and dtype_of(seen).kind == "f"
    if shape == seen.shape or (shape == (1, *seen.shape) and not is_number):
        return seen
    return spaces.Box(seen.low.reshape(shape), seen.high.reshape(shape), dtype=dtype_of(seen).type)


def _seen(declared: spaces.Space[Any], observation: Any) -> spaces.Space[Any]:
    """The declared space, with those parts replaced that the observation does not fit."""
    if fits(declared, observation):
        return declared
    if isinstance(declared, spaces.Dict) and isinstance(observation, Mapping) and observation.keys() >= set(declared):
        return spaces.Dict({key: _seen(part, observation[key]) for key, part in declared.items()})
    if isinstance(declared, spaces.Tuple) and isinstance(observation, tuple) and len(declared) == len(observation):
        return spaces.Tuple([_seen(*pair) for pair in zip(declared, observation, strict=True)])
    if isinstance(declared, spaces.Dict | spaces.Tuple) or isinstance(observation, Mapping):
        return infer_space(observation)
    try:
        array = as_numbers("", observation)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"reset {error}") from error
    dtype = dtype_of(declared)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        dtype = dtype_of(infer_space(observation))
    return unbounded_box(array.shape, dtype)


def _columns(space: spaces.Space[Any]) -> str:
    leaves = observation_leaves(space).items()
    return ", ".join(f"{leaf.dtype} of shape {leaf.shape}{' in ' + name if name else ''}" for name, leaf in leaves)


def _described(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return f"a dict with {sorted(map(str, observation))}"
    array = np.asarray(observation)
    return f"{array.dtype} of shape {array.shape}"
