"""The stratified sampler: each value of a column, such as a task or a source, has a fixed share of every batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_integer, checked_number
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError
from really.replay._ring import GroupedRows, Ring
from really.replay.row_groups import RowGroups
from really.replay.samplers import Sampler, Shape
from really.replay.staleness import DOUBLE_BITS, checked_column

Weights = Mapping[int, float] | Iterable[tuple[int, float]]


class StratifiedSampler(Sampler):
    """n p_v rows of each batch have the value v, rounded up or down; rows of one value are equally likely.

    Which shares are rounded up is random, so that the expected number is n p_v exactly (systematic sampling: Madow
    1949). The batch has its rows in the order of the values: shuffle it if a row's place in the batch matters.

    Args:
        column: the integer whose values are the strata.
        weights: value -> weight, or pairs of them; p_v is the weight as a share of those of all values held. Rows of
            values without a weight are not drawn. By default all values that are held have the same weight.
    """

    def __init__(self, column: str, weights: Weights | None = None) -> None:
        self.column = checked_column(column)
        self.weights = None if weights is None else _checked_weights(weights)
        self._groups = RowGroups(self.column)

    def options(self) -> dict[str, Any]:
        """`column` and `weights`, as pairs."""
        return {"column": self.column, "weights": self.weights and [list(pair) for pair in self.weights.items()]}

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError unless the column is there and has one integer a row."""
        self._groups.check_spec(spec, "stratified sampling")

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Row numbers: strata by systematic sampling, then a row of each. Raises EmptyBufferError without a stratum."""
        num, num_batches = shape[-1], shape[0] if len(shape) == 2 else 1
        drawn = ring.draw_below(1 << DOUBLE_BITS, num_batches * (num + 1))
        with self._groups.lock:
            self._groups.follow(ring)
            rows, strata, ends = self._groups.made_once(self._strata)
            return rows.draw_of_strata(drawn, num, strata, ends).reshape(shape), {}

    def _strata(self) -> tuple[GroupedRows, NDArray[np.int64], NDArray[np.float64]]:
        """All groups, those that can be drawn in the order of their values, and where their shares but the last end."""
        held = np.flatnonzero(self._groups.counts)
        values = self._groups.values[held]
        strata = held[np.argsort(values)]
        if self.weights is not None:
            strata = np.array([at for at in strata if self.weights.get(int(self._groups.values[at]))], np.int64)
        if len(strata) == 0:
            raise EmptyBufferError(
                f"sample: expected rows whose {self.column!r} is one of {list(self.weights or ())}, got rows of "
                f"{sorted(values.tolist())}"
            )
        ends = np.cumsum(self._shares(strata))
        return self._groups.grouped(), strata, ends[:-1] / ends[-1]

    def _shares(self, strata: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.weights is None:
            return np.ones(len(strata))
        return np.array([self.weights[int(value)] for value in self._groups.values[strata]])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Reads all rows again, as they may be others."""
        with self._groups.lock:
            self._groups.forget()


def _checked_weights(weights: Weights) -> dict[int, float]:
    try:
        pairs = [(value, weight) for value, weight in (weights.items() if isinstance(weights, Mapping) else weights)]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"weights: expected value -> weight, or pairs of them, got {weights!r}") from None
    found = {
        checked_integer("weights", value, -(2**63), 2**63 - 1): checked_number(
            f"weights: {value!r}", weight, 0, math.inf
        )
        for value, weight in pairs
    }
    if not any(found.values()):
        raise InvalidValueError(f"weights: expected one above 0, got {weights!r}")
    return found
