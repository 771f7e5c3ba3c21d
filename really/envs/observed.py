"""observed_space: the space of the observations that an environment returns, if it is not the declared one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium import spaces

from really.data.spaces import dtype_of, infer_space, native_space, observation_leaves, to_gymnasium, unbounded_box
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
    it holds such numbers: values that it cannot hold are an error of the environment (`ReceivedObservations`).

    Raises:
        InvalidTypeError: the space is of a kind that has no columns, or the observation consists of no numbers.
    """
    if declared is None:
        return infer_space(observation)
    observation_leaves(declared)
    declared = native_space(declared)
    if fits(declared, observation):
        return declared
    seen = _seen(declared, observation)
    warnings.warn(
        f"environment {name!r}: expected observations of {declared}, as its observation_space declares, got "
        f"{_described(observation)} from reset; it is taken as {seen}",
        stacklevel=2,
    )
    return seen


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


def _described(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return f"a dict with {sorted(map(str, observation))}"
    array = np.asarray(observation)
    return f"{array.dtype} of shape {array.shape}"
