"""Delivery: the rows of a finished rollout, with the columns that follow from what was written at each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from really.collectors.messages import Result
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
        name: of the environment, for messages.
        schema: the columns that are delivered.
        gamma, gae_lambda: of `monte_carlo` and `advantage`.
        values_after: the values of the states that given rows led to; None where the model has none.
        normaliser: of observations and rewards; None where both are delivered as they are.
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
        self._finite: Collection[str] = () if normaliser is None else normaliser.names

    def rows(self, rollout: Rollout, results: Sequence[Result]) -> Columns:
        """The schema's columns, `[row, ...]`: one agent's results after the other's.

        Raises:
            ModelError: the model's values or log-probabilities are NaN.
            EnvironmentFailedError: an observation or a reward is NaN, or infinite where it is normalised; names
                agent and step.
        """
        flat = {name: rollout.flat(name) for name in rollout.arrays}
        counts = [result.rows for result in results]
        terminated, done = flat["terminated"], flat["terminated"] | flat["truncated"]
        ends = done.copy()
        ends[np.cumsum(counts) - 1] = True
        flat |= {"terminal": terminated, "not_done": ~done, "episode_end": ends}
        flat["policy_version"] = np.repeat([result.version for result in results], counts)
        flat["agent"] = np.repeat([result.agent for result in results], counts)
        self._check_numbers(flat, results)
        if self._normaliser is not None:
            self._normaliser.measure(flat, done, rollout.lengths)
            flat["reward"] = self._normaliser.rewards(flat["reward"])
        if not self._schema.keys().isdisjoint({"monte_carlo", "advantage"}):
            flat |= self._estimates(flat, terminated, ends)
        if self._normaliser is not None:
            # Last: the values of final states are those of observations as the environment shows them.
            self._normaliser.normalise_columns(flat)
        return {name: flat[name].astype(column.dtype, copy=False) for name, column in self._schema.items()}

    def _estimates(self, flat: Columns, terminated: Flags, ends: Flags) -> Columns:
        """Monte Carlo returns and advantages; a truncation or a cut leaves out what its last state is worth."""
        values = flat.get("value_estimate", np.zeros(len(ends), np.float32))
        final_values = np.append(values[1:], np.float32(0))
        cut = ends & ~terminated
        final_values[cut] = 0 if self._values_after is None else self._values_after(flat, np.flatnonzero(cut))
        # One long trajectory with all its ends: nothing flows across an end.
        reward, dead, open_ = flat["reward"][None], terminated[None], cut[None]
        found = {}
        if "monte_carlo" in self._schema:
            found["monte_carlo"] = returns.monte_carlo(reward, dead, open_, final_values[None], self._gamma)[0]
        if "advantage" in self._schema:
            arguments = (reward, values[None], final_values[None], dead, open_)
            found["advantage"] = returns.gae(*arguments, self._gamma, self._lambda)[0]
        return found

    def _check_numbers(self, flat: Columns, results: Sequence[Result]) -> None:
        """Refuses NaN, and infinity where it would spoil statistics for ever; at each step a look would cost more."""
        for name in {"log_prob", "value_estimate"} & flat.keys():
            if np.isnan(flat[name]).any():
                raise ModelError(f"the model's {name!r}: expected numbers, got NaN")
        for name, values in flat.items():
            if name.split(".")[0] in ("reward", "state", "state_new") and values.dtype.kind == "f":
                finite = name in self._finite
                bad = (~np.isfinite(values) if finite else np.isnan(values)).reshape(len(values), -1).any(axis=1)
                if bad.any():
                    raise EnvironmentFailedError(self._no_number(name, finite, int(bad.argmax()), results))

    def _no_number(self, name: str, finite: bool, row: int, results: Sequence[Result]) -> str:
        starts = np.cumsum([0, *(result.rows for result in results)])
        at = int(np.searchsorted(starts, row, side="right")) - 1
        expected = f"finite numbers in {name!r}, as it is normalised, got NaN or inf"
        return (
            f"environment {self._name!r} of agent {results[at].agent}, step {row - starts[at]} of its result: expected "
            f"{expected if finite else f'numbers in {name!r}, got NaN'}"
        )
