"""Delivery: turns a finished rollout into rows, and computes the columns that depend on whole trajectories."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from really.collectors.episodes import Records
from really.collectors.rollout import Rollout
from really.data import returns
from really.data.normalisation import Normaliser
from really.data.schema import Spec
from really.data.transitions import Columns
from really.errors import EnvironmentFailedError, ModelError

Flags = NDArray[np.bool_]
ValuesAfter = Callable[[Columns, NDArray[np.intp]], NDArray[np.float32]]


class Delivery:
    """Makes the columns of a schema from rollouts.

    Args:
        name: the environment's name, for error messages.
        schema: the columns to deliver.
        gamma, gae_lambda: parameters of `monte_carlo` and `advantage`.
        values_after: returns the values of the given rows' next states; None if the model has no values.
        normaliser: normalises observations and rewards; None if both are delivered unchanged.
    """

    def __init__(
        self,
        name: str,
        schema: Spec,
        gamma: float,
        gae_lambda: float,
        values_after: ValuesAfter | None,
        normaliser: Normaliser | None = None,
    ) -> None:
        self._name, self._schema, self._gamma, self._lambda = name, schema, gamma, gae_lambda
        self._values_after, self._normaliser = values_after, normaliser
        # A reward is infinite if float32 cannot hold it, for example 1e40. Only a clip repairs that.
        always = () if normaliser is not None and normaliser.clips_rewards else ("reward",)
        self._finite: Collection[str] = {*always, *(() if normaliser is None else normaliser.names)}

    def rows(self, rollout: Rollout, results: Records) -> Columns:
        """The columns of the schema, `[row, ...]`, one agent's results after the other, from records of `RESULT`.

        Raises:
            ModelError: the model's values or log-probabilities are NaN.
            EnvironmentFailedError: an observation or a reward is NaN, an observation is infinite although it is to be
                normalised, or a reward is infinite and not clipped. The message names agent and step.
        """
        flat = {name: rollout.flat(name) for name in rollout.arrays}
        counts = results["rows"]
        terminated, done = flat["terminated"], flat["terminated"] | flat["truncated"]
        ends = done.copy()
        ends[np.cumsum(counts) - 1] = True
        flat |= {"terminal": terminated, "not_done": ~done, "episode_end": ends}
        flat["policy_version"] = np.repeat(results["version"], counts)
        flat["agent"] = np.repeat(results["agent"], counts)
        self._check_numbers(flat, results)
        if self._normaliser is not None:
            self._normaliser.measure(flat, done, rollout.lengths)
            flat["reward"] = self._normaliser.rewards(flat["reward"])
        if not self._schema.keys().isdisjoint({"monte_carlo", "advantage"}):
            flat |= self._estimates(flat, terminated, ends)
        if self._normaliser is not None:
            # Only now, since `values_after` takes observations that are not normalised.
            self._normaliser.normalise_columns(flat)
        return {name: flat[name].astype(column.dtype, copy=False) for name, column in self._schema.items()}

    def _estimates(self, flat: Columns, terminated: Flags, ends: Flags) -> Columns:
        """Monte Carlo returns and advantages. A trajectory that is cut bootstraps from its last state's value."""
        values = flat.get("value_estimate", np.zeros(len(ends), np.float32))
        final_values = np.append(values[1:], np.float32(0))
        cut = ends & ~terminated
        final_values[cut] = 0 if self._values_after is None else self._values_after(flat, np.flatnonzero(cut))
        # All rows as one trajectory `[1, time]`: returns and advantages stop at each end.
        reward, ended, truncated = flat["reward"][None], terminated[None], cut[None]
        found = {}
        if "monte_carlo" in self._schema:
            found["monte_carlo"] = returns.monte_carlo(reward, ended, truncated, final_values[None], self._gamma)[0]
        if "advantage" in self._schema:
            arguments = (reward, values[None], final_values[None], ended, truncated)
            found["advantage"] = returns.gae(*arguments, self._gamma, self._lambda)[0]
        return found

    def _check_numbers(self, flat: Columns, results: Records) -> None:
        """Raises an error for NaN, and for infinity in columns whose statistics it would spoil for good.

        Here all rows are checked at once, which is cheaper than a check at each step.
        """
        for name in {"log_prob", "value_estimate"} & flat.keys():
            if np.isnan(flat[name]).any():
                raise ModelError(f"the model's {name!r}: expected numbers, got NaN")
        for name, values in flat.items():
            if name.split(".")[0] in ("reward", "state", "state_new") and values.dtype.kind == "f":
                finite = name in self._finite
                bad = (~np.isfinite(values) if finite else np.isnan(values)).any(axis=tuple(range(1, values.ndim)))
                if bad.any():
                    raise EnvironmentFailedError(self._not_a_number(name, finite, int(bad.argmax()), results))

    def _not_a_number(self, name: str, finite: bool, row: int, results: Records) -> str:
        """The message for a value of column `name` that is no number, or no finite number."""
        starts = np.cumsum(results["rows"]) - results["rows"]
        at = int(np.searchsorted(starts, row, side="right")) - 1
        is_measured = self._normaliser is not None and name in self._normaliser.names
        why = "as it is normalised" if is_measured else "at most 3.4e38, the largest of float32"
        wanted = f"finite numbers in {name!r}, {why}, got NaN or inf" if finite else f"numbers in {name!r}, got NaN"
        agent, step = results["agent"][at], row - starts[at]
        return f"environment {self._name!r} of agent {agent}, step {step} of its result: expected {wanted}"
