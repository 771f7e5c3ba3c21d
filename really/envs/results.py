"""What `reset` and `step` of any API return: the observation of a reset, the five values of a step, and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.checks import as_array
from really.data.spaces import shape_of

StepResult = tuple[Any, Any, Any, Any, Any]


def five_values(result: Any, reward_shape: tuple[int, ...] = ()) -> StepResult:
    """The five values of a step, checked; the older API returns four. Raises TypeError for anything else."""
    if not isinstance(result, tuple) or len(result) not in (4, 5):
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{type(result)}"
        raise TypeError(
            "step: expected (observation, reward, terminated, truncated, info) "
            f"or the older (observation, reward, done, info), got {got}"
        )
    if reward_shape:
        numbers(result[1], reward_shape)
    else:
        number(result[1])
    for name, value in zip(("terminated", "truncated") if len(result) == 5 else ("done",), result[2:], strict=False):
        flag(name, value)
    return result if len(result) == 5 else from_old(*result)


def from_old(observation: Any, reward: Any, done: Any, info: Any) -> StepResult:
    """Five values from the older four: `done` by the time limit is a truncation, not a termination."""
    truncated = bool(done and isinstance(info, Mapping) and info.get("TimeLimit.truncated", False))
    return observation, reward, False if truncated else done, truncated, info


def number(reward: Any) -> float:
    """The reward as a number; an array of one number is that number. Raises TypeError for anything else."""
    array = _as_array(reward)
    if array.dtype.kind not in "biuf" or array.size != 1:
        cure = (
            f"; reward_shape={array.shape} delivers such rewards" if array.dtype.kind in "biuf" and array.size else ""
        )
        raise TypeError(f"reward: expected one number, got {_described(reward, array)}{cure}")
    return float(array.reshape(()))


def numbers(reward: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A reward of several numbers as an array of this shape. Raises TypeError for anything else."""
    array = _as_array(reward)
    if array.dtype.kind not in "biuf" or array.shape != shape:
        got = _described(reward, array)
        raise TypeError(f"reward: expected an array of shape {shape}, as reward_shape says, got {got}")
    return array


def flag(name: str, value: Any) -> bool:
    """`terminated` or `truncated` as a bool: from a bool, 0, 1, an array of one of them, or None, which is False.

    Raises TypeError for anything else, such as "False" or a dict for several agents, which Python takes for true.
    """
    if type(value) is bool or value is None:
        return bool(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size != 1 or array.reshape(()) not in (0, 1):
        raise TypeError(f"{name}: expected True or False, got {value!r} ({type(value).__name__})")
    return bool(array.reshape(()))


def first_observation(result: Any, space: spaces.Space[Any] | None) -> tuple[Any, Any]:
    """The observation in what `reset` returned, and what stands in the place of `info`, unless it is a mapping.

    A pair may be `(observation, info)` or an observation itself, such as the place (x, y): `space`, the declared one,
    decides. If it cannot, two plain numbers are an observation.

    Raises:
        TypeError: this is neither an observation nor a pair.
    """
    if not isinstance(result, tuple | list):
        return result, None
    if len(result) == 2 and (result[1] is None or isinstance(result[1], Mapping)) and not _is_nested(space, result):
        return result[0], None
    if space is not None and fits(space, result):
        return result, None
    shape = _shape(result)
    if space is not None and len(result) == 2 and fits(space, result[0]) and (shape is None or len(shape) > 1):
        return result[0], result[1]
    if shape is None and not isinstance(space, spaces.Tuple | spaces.Dict):
        kinds = ", ".join(type(part).__name__ for part in result)
        raise TypeError(
            f"reset: expected an observation, or (observation, info) with a dict as info, "
            f"got a {type(result).__name__} of {len(result)}: {kinds}"
        )
    return result, None


def fits(space: spaces.Space[Any], observation: Any) -> bool:
    """Whether an observation has the parts and the shapes of `space`, whatever its dtypes are."""
    if isinstance(space, spaces.Dict):
        return isinstance(observation, Mapping) and all(
            key in observation and fits(part, observation[key]) for key, part in space.items()
        )
    if isinstance(space, spaces.Tuple):
        return (
            isinstance(observation, Sequence | np.ndarray)
            and len(observation) == len(space)
            and all(fits(part, observation[at]) for at, part in enumerate(space))
        )
    return _shape(observation) == shape_of(space)


def _as_array(reward: Any) -> NDArray[Any]:
    """A reward as an array. Integers beyond 64 bits, of which NumPy makes objects, are float64."""
    array = as_array("reward", reward)
    if array.dtype.kind == "O" and all(isinstance(part, int) for part in array.flat):
        return array.astype(np.float64)
    return array


def _described(reward: Any, array: NDArray[Any]) -> str:
    return f"an array of shape {array.shape}" if array.ndim else f"{reward!r} ({type(reward).__name__})"


def _is_nested(space: Any, result: Any) -> bool:
    """Whether the pair is an observation of a Tuple space whose second part is a Dict."""
    if not isinstance(space, spaces.Tuple) or len(space) != 2 or not isinstance(space[1], spaces.Dict):
        return False
    return bool(space.contains(result))


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a value as an array; None if it makes no array of numbers or text."""
    if isinstance(value, np.ndarray):
        return tuple(value.shape)
    try:
        array = as_array("observation", value)
    except ValueError:
        return None
    return None if array.dtype.kind == "O" else array.shape
