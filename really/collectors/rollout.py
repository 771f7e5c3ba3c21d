"""A rollout: columns `[env, time, ...]` that a runner fills step by step, and reads as flat rows at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils._step import Columns
from really._utils.array_pool import ArrayPool
from really.data.masks import KEY, KEY_NEW
from really.data.schema import HAS_STATE, RECURRENT_STATE, Spec


class Rollout:
    """Preallocated columns `[env, time, ...]`, in which each environment's trajectory is contiguous.

    Attributes:
        time: the length of the time axis.
        lengths: `[env]`, the number of valid steps of each environment; later steps are undefined.
        ends: for each environment, the steps at which its results end.
        arrays: the columns by name.
        before: writes at a step the observations, one array `[env, ...]` per leaf, and the actions taken on them.
        after: writes at a step the next observations, rewards, and the flags terminated and truncated.
        estimates: `log_prob` and `value_estimate`, if they are columns, as views `[time, env]`.
        masks: views `[time, env, width]` of the columns with the action masks before and after a step; empty if there
            are none.
        recurrent: writes at a step the recurrent states with which agents act, and `has_recurrent_state`, if they are
            columns.
    """

    def __init__(self, columns: Spec, num_envs: int, time: int, pool: ArrayPool) -> None:
        self.time = time
        self._pool = pool
        self.lengths = np.zeros(num_envs, np.intp)
        self.ends: list[list[int]] = [[] for _ in range(num_envs)]
        self.arrays: dict[str, NDArray[Any]] = {
            name: pool.empty((num_envs, time, *column.shape), column.dtype) for name, column in columns.items()
        }
        self._bind()

    def _bind(self) -> None:
        """Makes views `[time, env, ...]` of the columns, and what writes them at each step."""
        arrays = {name: rows.swapaxes(0, 1) for name, rows in self.arrays.items()}
        states = [rows for name, rows in arrays.items() if name.split(".")[0] == "state"]
        next_states = [rows for name, rows in arrays.items() if name.split(".")[0] == "state_new"]
        self.before = Columns([*states, arrays["action"]])
        self.after = Columns([*next_states, *(arrays[name] for name in ("reward", "terminated", "truncated"))])
        self.masks = [arrays[name] for name in (KEY, KEY_NEW) if name in arrays]
        states = [rows for name, rows in arrays.items() if name.split(".")[0] == RECURRENT_STATE]
        self.recurrent = Columns([*states, *(arrays[name] for name in (HAS_STATE,) if name in arrays)])
        self.estimates = {name: arrays[name] for name in ("log_prob", "value_estimate") if name in arrays}

    def grow(self) -> None:
        """Doubles the time axis and keeps the steps written so far."""
        for name, old in self.arrays.items():
            new = self._pool.empty((old.shape[0], 2 * self.time, *old.shape[2:]), old.dtype)
            new[:, : self.time] = old
            self.arrays[name] = new
        self.time *= 2
        self._bind()

    def close_result(self, env: int, length: int) -> None:
        """Marks that a result of environment `env` ends before step `length`."""
        self.ends[env].append(length)
        self.lengths[env] = length

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(rows.nbytes for rows in self.arrays.values())

    @property
    def result_rows(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Environment and number of rows of each result `[result]`, by environment and in time order."""
        envs = np.repeat(np.arange(len(self.ends)), [len(ends) for ends in self.ends])
        rows = [stop - start for ends in self.ends for start, stop in zip([0, *ends], ends, strict=False)]
        return envs, np.asarray(rows, np.intp)

    def flat(self, name: str) -> NDArray[Any]:
        """The valid part of a column as rows `[row, ...]`, one environment after the other."""
        column = self.arrays[name]
        if (self.lengths == self.time).all():
            return column.reshape(math.prod(column.shape[:2]), *column.shape[2:])
        return np.concatenate([column[env, :length] for env, length in enumerate(self.lengths)])
