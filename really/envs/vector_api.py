"""gymnasium's vector environments: their autoreset modes, and what they return at an episode's end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from really.data.spaces import flatten
from really.errors import InvalidValueError, one_of

NEXT_STEP, SAME_STEP, DISABLED = MODES = ("NextStep", "SameStep", "Disabled")
# Keys of `info` with the last observations of episodes: of gymnasium 1, of gymnasium 0.29, of Stable-Baselines3.
FINAL_KEYS = ("final_obs", "final_observation", "terminal_observation")
# Keys of `info` with the last infos of episodes, which also show that the next episodes have begun.
FINAL_INFO_KEYS = ("final_info", "final_infos")


def autoreset_mode(vector: Any) -> str | None:
    """Name of the mode in which `vector` starts episodes, as its metadata or those of the innermost environment say.

    The metadata may have gymnasium's enum or its name in any spelling, such as "same_step". Returns None if there is
    no such entry. Raises InvalidValueError if it names no mode.
    """
    inner = getattr(vector, "unwrapped", vector)
    found: Any = None
    for place in (_metadata(vector), _metadata(inner), vars(inner) if hasattr(inner, "__dict__") else {}):
        found = place.get("autoreset_mode") if found is None else found
    if found is None:
        return None
    spelled = {mode.lower(): mode for mode in MODES}
    word = re.sub(r"[^a-z]", "", str(getattr(found, "value", found)).lower())
    if word not in spelled:
        raise InvalidValueError(one_of("metadata['autoreset_mode']", found, MODES))
    return spelled[word]


def _metadata(vector: Any) -> Mapping[str, Any]:
    found = getattr(vector, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def pick(space: spaces.Space[Any], batch: Any, i: int) -> Any:
    """The observation of environment `i` in a batch of observations of `space`.

    The batch of a Dict space is a dict of batches, that of a Tuple a tuple of batches; in `info` either is an array of
    observations.
    """
    if isinstance(space, spaces.Dict) and isinstance(batch, Mapping):
        return {key: pick(part, batch[key], i) for key, part in space.items()}
    if isinstance(space, spaces.Tuple) and isinstance(batch, tuple):
        return tuple(pick(part, batch[at], i) for at, part in enumerate(space))
    return batch[i]


def final_observation(space: spaces.Space[Any], info: Any, i: int) -> Any:
    """The last observation of the episode that has ended in environment `i`. Returns None if `info` has none."""
    if isinstance(info, list | tuple):
        info, i = {key: [value] for key, value in info[i].items()} if isinstance(info[i], Mapping) else {}, 0
    if not isinstance(info, Mapping):
        return None
    for key in FINAL_KEYS:
        mask = info.get(f"_{key}")
        if info.get(key) is not None and (mask is None or mask[i]):
            found = pick(space, info[key], i)
            if found is not None:
                return found
    return None


def has_begun_next(info: Any) -> bool:
    """Whether `info` shows that a new episode began within the step that ended one."""
    return isinstance(info, Mapping) and not info.keys().isdisjoint((*FINAL_KEYS, *FINAL_INFO_KEYS))


def no_final_observation(declared: bool) -> str:
    """The message for an episode whose last observation the vector environment does not tell."""
    got = "metadata['autoreset_mode'] 'SameStep'" if declared else "an environment that resets within the step"
    return (
        f"expected info['final_obs'] with the last observation of an episode that ends, got none from {got}; "
        f"the observation that step returns is already the next episode's first"
    )


def infos_of(info: Any, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of environment `i` in an info: that of its step, and what came with the start of its next episode.

    At an episode's end in mode SameStep, "final_info" is the info of the step, and other entries belong to the new
    episode's start; only "episode", of gymnasium's RecordEpisodeStatistics, tells of the episode that has ended.
    """
    if isinstance(info, list | tuple):
        found = dict(info[i]) if isinstance(info[i], Mapping) else {}
    else:
        found = _part(info, i) if isinstance(info, Mapping) and info else {}
    last = {key: value for key, value in found.items() if key not in (*FINAL_KEYS, *FINAL_INFO_KEYS)}
    start = {key: value for key, value in last.items() if key != "episode"}
    for key in FINAL_INFO_KEYS:
        if isinstance(found.get(key), Mapping):
            last |= found[key]
    return last, start


def _part(info: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Entries that environment `i` has: the array `_key` says which environments have an entry `key`."""
    found = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if (isinstance(key, str) and key[:1] == "_" and key[1:] in info) or (mask is not None and not mask[i]):
            continue
        if isinstance(value, Mapping):
            found[key] = _part(value, i)
        else:
            found[key] = value[i] if np.ndim(value) > 0 and len(value) > i else value
    return found


def equal(space: spaces.Space[Any], one: Any, other: Any) -> bool:
    """Whether two observations of `space` are equal."""
    return all(np.array_equal(a, b) for a, b in zip(flatten(space, one), flatten(space, other), strict=True))


def copied(space: spaces.Space[Any], observation: Any) -> Any:
    """A copy of an observation, which a vector environment may overwrite in its next step."""
    if isinstance(space, spaces.Dict):
        return {key: copied(part, observation[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(copied(part, observation[at]) for at, part in enumerate(space))
    return np.array(observation)
