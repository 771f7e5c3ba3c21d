"""The sampler of staleness: rows of older policies are less likely, or not drawn at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_integer, checked_positive
from really.data.schema import Spec
from really.errors import InvalidTypeError, InvalidValueError
from really.replay._ring import GroupedRows, Ring
from really.replay.row_groups import DOUBLE_BITS, RowGroups
from really.replay.samplers import Sampler, Shape


class StalenessSampler(Sampler):
    """P(row) in proportion to 2^(-s / half_life), where s is how many policy versions are newer than the row's.

    The newest version is the largest that is held. Rows of the same version are equally likely.

    Args:
        half_life: versions after which a row is half as likely; None makes no difference between versions.
        most: rows of more staleness are not drawn; None draws all. One of the two has to be given.
        column: the integer that counts versions; `get_data` and `collect` deliver it where `returns` asks for it.
    """

    def __init__(
        self,
        half_life: SupportsFloat | None = None,
        most: SupportsIndex | None = None,
        column: str = "policy_version",
    ) -> None:
        if half_life is None and most is None:
            raise InvalidValueError("half_life, most: expected one of them or both, got none; uniform draws need none")
        self.half_life = None if half_life is None else checked_positive("half_life", half_life)
        self.most = None if most is None else checked_integer("most", most, 0)
        self.column = checked_column(column)
        self._groups = RowGroups(self.column)

    def options(self) -> dict[str, Any]:
        """`half_life`, `most` and `column`."""
        return {"half_life": self.half_life, "most": self.most, "column": self.column}

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError unless the column is there and has one integer a row."""
        self._groups.check_spec(spec, "staleness")

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Row numbers, first a version by the weight of its rows, then a row of it."""
        drawn = ring.draw_below(1 << DOUBLE_BITS, math.prod(shape))
        with self._groups.lock:
            self._groups.follow(ring)
            rows, weights, ends = self._groups.made_once(self._weights)
            return rows.draw_by_weight(drawn, weights, ends).reshape(shape), {}

    def _weights(self) -> tuple[GroupedRows, NDArray[np.float64], NDArray[np.float64]]:
        """Groups with rows, the weight of a row of each, and the sum of the weights of all rows up to each one's last.

        They are in the order of their versions: that in which they came depends on when the buffer was read.
        """
        order = np.argsort(self._groups.values)
        order = order[self._groups.counts[order] > 0]
        versions = self._groups.values[order]
        stale = (versions[-1] - versions).astype(np.float64)
        weights = np.ones(len(stale)) if self.half_life is None else np.exp2(-stale / self.half_life)
        if self.most is not None:
            weights[stale > self.most] = 0.0
        return self._groups.grouped(order), weights, np.cumsum(weights * self._groups.counts[order])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Reads all rows again, as they may be others."""
        with self._groups.lock:
            self._groups.forget()


def checked_column(name: Any) -> str:
    """The name of a column; raises InvalidTypeError."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"column: expected the name of a column, got {name!r}")
    return name
