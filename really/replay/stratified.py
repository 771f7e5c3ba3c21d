"""The stratified sampler: each value of a column, such as a task or a source, has a fixed share of every batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_integer, checked_number
from really.data.schema import Spec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError
from really.replay._ring import GroupedRows, Ring
from really.replay.row_groups import DOUBLE_BITS, RowGroups
from really.replay.samplers import Drawn, MayBeDrawn, Sampler, Shape
from really.replay.staleness import checked_column
from really.replay.trajectories import Trajectories

FEW_TRIES = 30
"""How often rows of a stratum are drawn again before all of its rows are looked at."""
TRIES = 100
"""How often a batch is drawn again because other threads drop all rows of a stratum meanwhile."""
NO_ROW = -1
Weights = Mapping[int, float] | Iterable[tuple[int, float]]


class StratifiedSampler(Sampler):
    """n p_v rows of each batch have the value v, rounded up or down; rows of one value are equally likely.

    Which shares are rounded up is random, so that the expected number is n p_v exactly (systematic sampling: Madow
    1949). The batch has its rows in the order of the values: shuffle it if a row's place in the batch matters. A value
    of which no row can be drawn, such as one without a whole episode for `Episodes`, has no share.

    Args:
        column: the integer whose values are the strata.
        weights: value -> weight, or pairs of them; p_v is the weight as a share of those of all values held. Rows of
            values without a weight are not drawn. By default all values that are held have the same weight.
    """

    def __init__(self, column: str, weights: Weights | None = None) -> None:
        self.column = checked_column(column)
        self.weights = None if weights is None else _checked_weights(weights)
        self._groups = RowGroups(self.column)
        self._examples: dict[int, int] = {}  # value -> number of a row of it that could be drawn
        self._starts: Trajectories | None = None

    def restrict(self, starts: Trajectories | None) -> None:
        """Draws only rows that are starts."""
        self._starts = starts

    def options(self) -> dict[str, Any]:
        """`column` and `weights`, as pairs."""
        return {"column": self.column, "weights": self.weights and [list(pair) for pair in self.weights.items()]}

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError unless the column is there and has one integer a row."""
        self._groups.check_spec(spec, "stratified sampling")

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """Row numbers: strata by systematic sampling, then a row of each. Raises EmptyBufferError without a stratum."""
        drawn = ring.draw_below(1 << DOUBLE_BITS, _num_drawn(shape))
        with self._groups.lock:
            self._groups.follow(ring)
            rows, strata, ends = self._groups.made_once(self._strata)
            return rows.draw_of_strata(drawn, shape[-1], strata, ends).reshape(shape), {}

    def _drawn_where(self, may_be_drawn: MayBeDrawn, ring: Ring, shape: Shape, beta: Any) -> Drawn | None:
        """`draw` among the strata that have rows that may be drawn. Other rows are drawn again in their stratum."""
        with self._groups.lock:
            for _ in range(TRIES):
                self._groups.follow(ring)
                rows, strata, ends = self._groups.made_once(self._strata)
                left = self._with_rows(strata, may_be_drawn)
                if len(left) == 0:
                    return None
                if len(left) < len(strata):
                    ends = self._ends(left)
                drawn = ring.draw_below(1 << DOUBLE_BITS, _num_drawn(shape))
                numbers = rows.draw_of_strata(drawn, shape[-1], left, ends)
                if self._draw_again(numbers, may_be_drawn, ring):
                    return numbers.reshape(shape), {}
        return None

    def _with_rows(self, strata: NDArray[np.int64], may_be_drawn: MayBeDrawn) -> NDArray[np.int64]:
        """Those of the strata that have a row that may be drawn."""
        values = self._groups.values[strata].tolist()
        examples = np.array([self._examples.get(value, NO_ROW) for value in values], np.int64)
        have_rows = (self._groups.groups_of(examples) == strata) & may_be_drawn(examples)
        without = np.flatnonzero(~have_rows).tolist()
        for at, found in zip(without, self._rows_of(strata[without].tolist(), may_be_drawn), strict=True):
            if len(found):
                self._examples[values[at]], have_rows[at] = int(found[-1]), True
        if len(self._examples) > 2 * len(values):
            self._examples = {value: self._examples[value] for value in values if value in self._examples}
        left: NDArray[np.int64] = strata[have_rows]
        return left

    def _draw_again(self, numbers: NDArray[np.int64], may_be_drawn: MayBeDrawn, ring: Ring) -> bool:
        """Draws again, each in its stratum, in place of rows that may not be drawn.

        Returns False if puts of other threads have dropped rows of the batch, or all rows of a stratum.
        """
        groups = self._groups.groups_of(numbers)
        for _ in range(FEW_TRIES):
            others = np.flatnonzero(~may_be_drawn(numbers))
            if len(others) == 0:
                return True
            numbers[others] = self._groups.drawn(ring, groups[others])
        others = np.flatnonzero(~may_be_drawn(numbers))
        left = sorted(set(groups[others].tolist()), key=lambda group: int(self._groups.values[group]))
        for group, found in zip(left, self._rows_of(left, may_be_drawn), strict=True):
            if len(found) == 0:
                return False
            at = others[groups[others] == group]
            numbers[at] = found[ring.draw_below(len(found), len(at))]
        return bool(may_be_drawn(numbers).all())

    def _rows_of(self, groups: list[int], may_be_drawn: MayBeDrawn) -> Iterator[NDArray[np.int64]]:
        """For each of these groups, numbers of all rows that may be drawn, ascending."""
        num_rows = int(self._groups.counts[groups].sum())
        starts = None if self._starts is None or not groups else self._starts.starts_if_below(num_rows)
        if starts is not None:
            groups_of_starts = self._groups.groups_of(starts)
            yield from (starts[groups_of_starts == group] for group in groups)
            return
        for group in groups:
            rows = self._groups.rows_of(group)
            yield rows[may_be_drawn(rows)]

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
        return self._groups.grouped(), strata, self._ends(strata)

    def _ends(self, strata: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the shares of the strata but the last end."""
        ends = np.cumsum(self._shares(strata))
        shares: NDArray[np.float64] = ends[:-1] / ends[-1]
        return shares

    def _shares(self, strata: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.weights is None:
            return np.ones(len(strata))
        return np.array([self.weights[int(value)] for value in self._groups.values[strata]])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Reads all rows again, as they may be others."""
        with self._groups.lock:
            self._groups.forget()


def _num_drawn(shape: Shape) -> int:
    """How many random numbers a draw needs: one for each batch, and one for each row."""
    return (shape[-1] + 1) * (shape[0] if len(shape) == 2 else 1)


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
