"""Sample units: what a row number becomes in a batch. The default is the transition itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.reprs import one_line
from really.data.schema import Spec
from really.replay._ring import Ring, WindowDraws
from really.replay.trajectories import Trajectories

Batch = dict[str, NDArray[Any]]
"""Key -> [n, ...] of the key's dtype."""
MASK, IS_FIRST, NUMBER = "mask", "is_first", "number"
"""Columns that batches with an axis of steps have besides those of the rows."""


class SampleUnit:
    """Makes the rows of a batch from row numbers: one transition for each number, as it was put.

    A subclass is made with its own options, and registered under a name in `really.replay.UNITS`; `ReplayBuffer(unit=)`
    uses it. It overrides `take`, and `batch_spec` if its batches have other columns.
    """

    in_ring = True
    """Whether `Ring.sample` and `Ring.take` give batches of this unit. False sends each batch through `take`."""

    starts: Trajectories | None = None
    """Which rows a draw may choose, once a ring is prepared; None for all rows that are held."""

    window_draws: WindowDraws | None = None
    """What draws batches like `sample`, once a ring is prepared; None if nothing does."""

    def options(self) -> dict[str, Any]:
        """The arguments that make this unit again: numbers, strings and None."""
        return {}

    def __repr__(self) -> str:
        return one_line(self, self.options())

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises InvalidValueError if a column that the unit needs is missing."""

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column that the unit needs is missing or of another dtype or shape."""

    def prepare(self, ring: Ring) -> None:
        """Sets up a ring before its first batch; called once for each ring."""

    def batch_spec(self, spec: Spec) -> Spec:
        """The schema of a batch of rows of this schema."""
        return spec

    def version(self) -> int:
        """A number that changes whenever rows that batches depend on change, other than by puts; 0 without `starts`.

        They are columns that tell where episodes end, and removed rows. A batch between whose draw and copy the number
        has changed is drawn again.
        """
        return 0 if self.starts is None else self.starts.version

    def take(self, ring: Ring, numbers: NDArray[np.int64]) -> Batch | None:
        """The batch of these row numbers, [n] or [k, n], to which the caller may add columns; None if a row is gone."""
        num, num_batches = numbers.shape[-1], len(numbers) if numbers.ndim == 2 else 0
        return ring.take(numbers.reshape(-1), num, num_batches, by_number=True, steps=True)

    def sample(self, ring: Ring, shape: tuple[int, ...]) -> Batch | None:
        """`take` of rows that are drawn uniformly, [n] or [k, n], if the unit draws them itself; else None."""
        return None
