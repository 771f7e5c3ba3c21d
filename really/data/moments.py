"""Moments: number, mean and squared deviations of rows, measured on a runner and merged on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Added to variances, as Stable-Baselines3 and gymnasium do.
EPSILON = 1e-8
# Numbers of a row that are measured at a time.
BLOCK_COLUMNS = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and summed squared deviations of one set of rows, or of several sets, `[set, ...]`.

    Attributes:
        count: int64 `[]` or `[set]`.
        mean, squares: float64, a row's shape, or `[set, ...]`.
    """

    count: NDArray[np.int64]
    mean: Floats
    squares: Floats

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Self:
        """The moments of no row."""
        return cls(np.zeros((), np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def measure(cls, rows: NDArray[Any], lengths: NDArray[np.intp]) -> Self:
        """The moments `[set, ...]` of sets of rows `[row, ...]` that follow one another, of `lengths` `[set]` > 0.

        Two passes; deviations are from the set's own mean. So a set's moments do not depend on the others, to the bit.
        """
        flat, shape = rows.reshape(len(rows), -1), (len(lengths), *rows.shape[1:])
        blocks = range(0, max(1, flat.shape[1]), BLOCK_COLUMNS)
        pairs = [_mean_and_squares(flat[:, first : first + BLOCK_COLUMNS], lengths) for first in blocks]
        mean, squares = (np.concatenate(part, axis=1).reshape(shape) for part in zip(*pairs, strict=True))
        return cls(lengths.astype(np.int64), mean, squares)

    @classmethod
    def merge(cls, parts: Sequence[Moments]) -> Self:
        """The moments of all rows together. Each part has one set or several.

        The parallel algorithm of Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance",
        equation 2.1, for any number of sets at once: M = sum of M_i + sum of n_i * (mean_i - mean)^2.
        """
        count = np.concatenate([np.atleast_1d(part.count) for part in parts])
        rows = parts[0].mean.shape[parts[0].count.ndim :]
        mean = np.concatenate([part.mean.reshape(-1, *rows) for part in parts])
        squares = np.concatenate([part.squares.reshape(-1, *rows) for part in parts])
        if not (total := count.sum()):
            return cls.none(rows)
        weight = count.reshape(-1, *[1] * len(rows))
        together = (weight * mean).sum(axis=0) / total
        return cls(total, together, squares.sum(axis=0) + (weight * (mean - together) ** 2).sum(axis=0))

    @property
    def variance(self) -> Floats:
        """The population variance of one set, as in Stable-Baselines3 and gymnasium; 1 if it has no row."""
        return self.squares / self.count if self.count else np.ones_like(self.squares)

    @property
    def factor(self) -> Floats:
        """The factor of deviations: 1 / sqrt(variance + 1e-8); 1 if the set has no row."""
        return 1.0 / np.sqrt(self.variance + EPSILON) if self.count else np.ones_like(self.squares)


Statistics = dict[str, Moments]
"""Moments by the name of the column that they normalise: 'state', 'state.<leaf>', 'reward'."""


def _mean_and_squares(rows: NDArray[Any], lengths: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean and summed squared deviations `[set, column]` of sets of rows `[row, column]`."""
    starts = np.cumsum(lengths) - lengths
    values = rows.astype(np.float64)
    mean = np.add.reduceat(values, starts) / lengths[:, None]
    values -= np.repeat(mean, lengths, axis=0)
    np.square(values, out=values)
    return mean, np.add.reduceat(values, starts)
