"""Spaces as JSON: what a saved model says of the observations that it takes and of its actions."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.memory_limits import refuse_if_too_big
from really.errors import InvalidValueError

KINDS = spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space of one of the kinds that columns have, or of a class derived from one. Equal bounds are one number."""
    kind: dict[str, Any] = {"kind": next((each.__name__ for each in KINDS if isinstance(space, each)), None)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return kind | {"shape": list(space.shape), "dtype": str(space.dtype)} | bounds
    if isinstance(space, spaces.Discrete):
        return kind | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        numbers = {"nvec": np.asarray(space.nvec).tolist(), "start": np.asarray(space.start).tolist()}
        return kind | numbers | {"dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return kind | {"n": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return kind | {"parts": [[str(key), space_to_json(part)] for key, part in space.items()]}
    if isinstance(space, spaces.Tuple):
        return kind | {"parts": [space_to_json(part) for part in space]}
    raise InvalidValueError(f"space: expected a Box, Discrete, Multi-, Dict or Tuple space, got {space!r}")


def space_from_json(found: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_json` described. Raises InvalidValueError, KeyError or TypeError for anything else."""
    kind = found["kind"]
    if kind == "Box":
        shape, dtype = tuple(map(operator.index, found["shape"])), np.dtype(found["dtype"])
        if dtype.kind not in "biuf" or min(shape, default=0) < 0:
            raise InvalidValueError(f"space: expected a Box of numbers, got {dtype} of shape {list(shape)}")
        refuse_if_too_big("space", 4 * math.prod(shape) * dtype.itemsize)
        low, high = (np.broadcast_to(np.asarray(found[name], dtype), shape) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(int(found["n"]), start=int(found["start"]))
    if kind == "MultiDiscrete":
        dtype = np.dtype(found.get("dtype", "int64"))  # models saved before have none
        if dtype.kind not in "iu":
            raise InvalidValueError(f"space: expected a MultiDiscrete of integers, got {dtype}")
        return spaces.MultiDiscrete(np.asarray(found["nvec"]), dtype, start=np.asarray(found["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(found["n"] if len(found["n"]) > 1 else found["n"][0])
    if kind == "Dict":
        return spaces.Dict({key: space_from_json(part) for key, part in found["parts"]})
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in found["parts"]])
    raise InvalidValueError(f"space: expected a Box, Discrete, Multi-, Dict or Tuple space, got {kind!r}")


def _bound(bound: NDArray[Any]) -> Any:
    return bound.flat[0].item() if bound.size and (bound == bound.flat[0]).all() else bound.tolist()
