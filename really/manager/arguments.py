"""The arguments of a SampleManager: their checks and defaults, and the settings that may change between two calls."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from really._utils.checks import checked_bool, checked_integer, checked_mapping, checked_number
from really._utils.names import OF_MANAGERS, check_names
from really._utils.published import model_call
from really.data.schema import RECURRENT_STATE as STATE
from really.data.transitions import ON_POLICY, check_returns
from really.envs.make import VECTOR_CHOICES
from really.errors import InvalidTypeError, InvalidValueError, one_of
from really.policies.policy import canonical_sampling_type

# Default bound to which normalised observations and rewards are clipped, as in Stable-Baselines3.
DEFAULT_CLIP = 10.0
DEFAULT_LAMBDA = 0.95
MOST_STEPS = 2**31 - 1
# Resources that Ray itself names.
BUILTIN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")


def checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a SampleManager with checked values and defaults; two spellings become one."""
    given = dict(arguments)
    check_names("SampleManager", given.pop("others", {}), given, OF_MANAGERS)
    sampling_type = _first_given(given, "action_sampling_type", "actin_sampling_type")
    given["action_sampling_type"] = sampling_type and canonical_sampling_type(sampling_type)
    given["env_config"] = checked_mapping("env_config", _first_given(given, "env_config", "env_kwargs"))
    for name in ("is_tf", "use_ray", "normalize_observations", "normalize_rewards", "action_masks"):
        given[name] = checked_bool(name, given[name])
    given["input_shape"] = model_call(given["is_tf"], given["input_shape"])
    given["num_parallel"] = checked_integer("num_parallel", given["num_parallel"])
    given["returns"] = list(check_returns(given["returns"]))
    given |= _rollout_length(given["num_episodes"], given["num_steps"])
    given["remote_min_returns"] = _min_returns(given)
    if given["max_staleness"] is None:
        given["max_staleness"] = 0.0 if ON_POLICY & set(given["returns"]) else math.inf
    elif given["max_staleness"] != math.inf:
        given["max_staleness"] = checked_number("max_staleness", given["max_staleness"], 0, math.inf)
    for name in ("gamma", "gae_lambda"):
        given[name] = checked_number(name, given[name], 0, 1)
    every = checked_integer("recurrent_state_every", given["recurrent_state_every"], 1, MOST_STEPS)
    given["recurrent_state_every"] = every
    _refuse_unused(given)
    if given["remote_time_out"] is not None:
        given["remote_time_out"] = checked_number("remote_time_out", given["remote_time_out"], 0, math.inf)
    for name, least in (("num_workers", 1), ("seed", 0)):
        if given[name] is not None:
            given[name] = checked_integer(name, given[name], least)
    given["reward_shape"] = _reward_shape(given)
    given |= _resources(given)
    given |= _normalisation(given)
    if given["vector"] not in VECTOR_CHOICES:
        raise InvalidValueError(one_of("vector", given["vector"], VECTOR_CHOICES))
    return given


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; they may be nested dicts, lists and tuples, with arrays in them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one is other or bool(np.array_equal(one, other))


def _first_given(given: dict[str, Any], name: str, other: str) -> Any:
    """The value given under either of two spellings, of which the second is removed; both at once are an error."""
    values = [given.get(name), given.pop(other, None)]
    if None not in values:
        raise InvalidValueError(f"{name} and {other}: expected one of these spellings, got both")
    return next((value for value in values if value is not None), None)


def _refuse_unused(given: Mapping[str, Any]) -> None:
    """Raises InvalidValueError for a setting of a column that `returns` does not ask for."""
    for name, default, column in (("gae_lambda", DEFAULT_LAMBDA, "advantage"), ("recurrent_state_every", 1, STATE)):
        if given[name] != default and column not in given["returns"]:
            raise InvalidValueError(
                f"{name}: expected {column!r} in returns, as nothing else uses it, got {name}={given[name]} with "
                f"returns={given['returns']}"
            )


def _rollout_length(num_episodes: int | None, num_steps: int | None) -> dict[str, int | None]:
    """`num_episodes` and `num_steps`, of which exactly one is set: one episode if neither is given."""
    if num_episodes is not None and num_steps is not None:
        raise InvalidValueError(
            f"num_episodes and num_steps: expected one of them, got both ({num_episodes!r} and {num_steps!r})"
        )
    if num_steps is not None:
        return {"num_steps": checked_integer("num_steps", num_steps), "num_episodes": None}
    episodes = checked_integer("num_episodes", 1 if num_episodes is None else num_episodes)
    return {"num_steps": None, "num_episodes": episodes}


def _reward_shape(given: Mapping[str, Any]) -> tuple[int, ...]:
    """The checked `reward_shape`; raises InvalidValueError for what needs rewards of one number."""
    sizes = given["reward_shape"]
    if isinstance(sizes, str | bytes | Mapping):
        raise InvalidTypeError(f"reward_shape: expected a shape such as (2,), got {sizes!r} ({type(sizes).__name__})")
    sizes = sizes if isinstance(sizes, Iterable) else [sizes]
    shape = tuple(checked_integer("reward_shape", size) for size in sizes)
    needs = [f"{name!r} in returns" for name in ("monte_carlo", "advantage") if name in given["returns"]]
    needs += ["normalize_rewards=True"] * given["normalize_rewards"]
    if shape and needs:
        raise InvalidValueError(
            f"reward_shape: expected () with {needs[0]}, which takes one number as reward, got {shape}; add the "
            f"numbers up with weights in the environment, or compute returns from the column 'reward'"
        )
    return shape


def _normalisation(given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked arguments for normalisation, scaling and clipping; a clip that is off is infinite."""
    clip, scale = given["observation_clip"], given["reward_scale"]
    if clip is not None and not given["normalize_observations"]:
        raise InvalidValueError(f"observation_clip: expected normalize_observations=True with it, got {clip!r} alone")
    if not checked_number("reward_scale", scale, 0, math.inf):
        raise InvalidValueError("reward_scale: expected a number > 0, got 0, which makes every reward 0")
    rewards = given["reward_clip"]
    if rewards is None:
        rewards = DEFAULT_CLIP if given["normalize_rewards"] else math.inf
    return {
        "observation_clip": _clip("observation_clip", DEFAULT_CLIP if clip is None else clip)[1],
        "reward_scale": float(scale),
        "reward_clip": _clip("reward_clip", rewards, takes_pair=True),
    }


def _resources(given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked arguments for what each runner's process needs from Ray."""
    resources = checked_mapping("resources", given["resources"])
    if builtin := next((name for name in resources if name in BUILTIN_RESOURCES), None):
        raise InvalidValueError(
            f"resources: expected names of custom resources, got {builtin!r}; a process has one CPU, and num_gpus= GPUs"
        )
    resources = {name: _amount(f"resources[{name!r}]", amount) for name, amount in resources.items()}
    num_gpus = _amount("num_gpus", given["num_gpus"])
    checked_mapping("runtime_env", given["runtime_env"])
    if (limit := given["max_runner_memory"]) is not None:
        checked_number("max_runner_memory", limit, 1, math.inf)
    for name in ("num_gpus", "resources", "runtime_env", "max_runner_memory"):
        if given[name] and not given["use_ray"]:
            raise InvalidValueError(
                f"{name}: expected runners in processes of Ray, got {name}={given[name]!r} with use_ray=False"
            )
    return {"num_gpus": num_gpus, "resources": {name: amount for name, amount in resources.items() if amount}}


def _amount(name: str, value: Any) -> float:
    """The amount of a resource: any number up to 1, or a whole one above, as Ray grants it."""
    amount = checked_number(name, value, 0, math.inf)
    if amount > 1 and not amount.is_integer():
        raise InvalidValueError(f"{name}: expected a number up to 1, or a whole number, got {value!r}")
    return amount


def _clip(name: str, value: Any, takes_pair: bool = False) -> tuple[float, float]:
    """The bounds (low, high): a pair as it is, if one may be given, a number c as (-c, c). Infinity sets no limit."""
    expected = f"{name}: expected a number > 0{' or a pair (low, high) with low < high' if takes_pair else ''}"
    is_pair = takes_pair and isinstance(value, tuple | list)
    try:
        if isinstance(value, bool):
            raise TypeError
        low, high = map(float, value) if is_pair else (-float(value), float(value))
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{expected}, got {value!r} ({type(value).__name__})") from None
    if not low < high:
        raise InvalidValueError(f"{expected}, got {value!r}")
    return low, high


def _min_returns(given: Mapping[str, Any]) -> int:
    """Number of agents to wait for: by default 10 % and at least one, or all if a seed requires repeatable data."""
    agents = given["num_parallel"]
    if given["remote_min_returns"] is None:
        return int(agents) if given["seed"] is not None else max(1, agents // 10)
    least = checked_integer("remote_min_returns", given["remote_min_returns"])
    if least > agents:
        raise InvalidValueError(
            f"remote_min_returns: expected at most num_parallel={agents}, as it counts agents, got {least}"
        )
    return least


_CHANGEABLE: dict[str, Callable[[str, Any], Any]] = {
    "epsilon": lambda name, value: checked_number(name, value, 0, 1),
    "temperature": lambda name, value: checked_number(name, value, 0, math.inf),
    "total_steps": checked_integer,
    "weights": lambda name, value: value,
    "model_kwargs": checked_mapping,
}


class Settings(UserDict[str, Any]):
    """The manager's arguments by name; epsilon, temperature, total_steps, weights and model_kwargs may be changed.

    A new value applies to the rows collected from then on. To change another argument raises an error, as that would
    have no effect.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.data.update(arguments)
        for name in _CHANGEABLE:
            self[name] = arguments[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in _CHANGEABLE:
            raise InvalidValueError(one_of("manager.kwargs, set between calls", name, _CHANGEABLE))
        self.data[name] = _CHANGEABLE[name](name, value)

    def __delitem__(self, name: str) -> None:
        raise InvalidValueError(f"manager.kwargs: {name!r} cannot be removed, only changed")
