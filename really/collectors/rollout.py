"""A rollout: the columns `[env, time, ...]` that a runner fills step by step, and the flat rows that leave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.array_pool import ArrayPool
from really.data.schema import Spec


class Rollout:
    """Preallocated columns `[env, time, ...]`; each environment's trajectory is contiguous.

    Environment `i` has filled the first `lengths[i]` steps; whatever stands behind them means nothing.
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

    def write_action(self, step: int, observations: Sequence[NDArray[Any]], actions: NDArray[Any]) -> None:
        """What the policy saw at `step`, leaf by leaf `[env, ...]`, and what it did, `[env, ...]`."""
        for column, leaf in zip(self._states, observations):  # noqa: B905 - one leaf a column by construction
            column[step] = leaf
        self._actions[step] = actions

    def write_outcome(
        self,
        step: int,
        observations: Sequence[NDArray[Any]],
        rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> None:
        """Where that led: final observations, leaf by leaf `[env, ...]`, rewards and flags `[env]`."""
        for column, leaf in zip(self._next_states, observations):  # noqa: B905
            column[step] = leaf
        self._rewards[step] = rewards
        self._terminated[step] = terminated
        self._truncated[step] = truncated

    def _bind(self) -> None:
        """Views `[time, env, ...]` of the columns, looked up once: by name at each step it would cost twice as much."""
        arrays = {name: rows.swapaxes(0, 1) for name, rows in self.arrays.items()}
        self._states = [rows for name, rows in arrays.items() if name.split(".")[0] == "state"]
        self._next_states = [rows for name, rows in arrays.items() if name.split(".")[0] == "state_new"]
        self._actions, self._rewards = arrays["action"], arrays["reward"]
        self._terminated, self._truncated = arrays["terminated"], arrays["truncated"]
        self.estimates = {name: arrays[name] for name in ("log_prob", "value_estimate") if name in arrays}

    def grow(self) -> None:
        """Doubles the time axis; what is filled stays."""
        for name, old in self.arrays.items():
            new = self._pool.empty((old.shape[0], 2 * self.time, *old.shape[2:]), old.dtype)
            new[:, : self.time] = old
            self.arrays[name] = new
        self.time *= 2
        self._bind()

    def close_result(self, env: int, length: int) -> None:
        """Says that a result of environment `env` ends before step `length`."""
        self.ends[env].append(length)
        self.lengths[env] = length

    @property
    def result_rows(self) -> list[tuple[int, int]]:
        """(environment, rows) of every result, environment by environment, in time order."""
        return [
            (env, stop - start)
            for env, ends in enumerate(self.ends)
            for start, stop in zip([0, *ends], ends, strict=False)
        ]

    def flat(self, name: str) -> NDArray[Any]:
        """The filled part of a column as rows `[row, ...]`, one environment after the other."""
        column = self.arrays[name]
        if (self.lengths == self.time).all():
            return column.reshape(-1, *column.shape[2:])
        return np.concatenate([column[env, :length] for env, length in enumerate(self.lengths)])
