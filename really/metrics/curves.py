"""Curves of training progress: one run's as it grows, its CSV file, and one experiment's over several seeds."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CSV_NAME = "progress.csv"
# A seed whose values end at this part of the longest seed's, or later, counts as complete: whole episodes do not end at
# exactly the same step.
COMPLETE = 0.95


@dataclass
class Curve:
    """One key's points, in the order of their epochs. All lists have the same length.

    `means` and `spreads` are mean and standard deviation of the values given in one update. `smoothed` and `bands` are
    the same over the values of the last `window` updates that had any; each update counts equally.
    """

    name: str
    window: int
    epochs: list[int] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    bands: list[float] = field(default_factory=list)
    unit: str = ""

    @property
    def label(self) -> str:
        """Name and unit, for an axis."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def add(self, epoch: int, mean: float, spread: float) -> None:
        """Appends a point, and the point of the smoothed curve that follows from it."""
        self.epochs.append(epoch)
        self.means.append(mean)
        self.spreads.append(spread)
        means, spreads = self.means[-self.window :], self.spreads[-self.window :]
        smoothed = sum(means) / len(means)
        within = sum(s * s for s in spreads) / len(spreads)
        between = sum((m - smoothed) * (m - smoothed) for m in means) / len(means)
        self.smoothed.append(smoothed)
        self.bands.append(math.sqrt(within + between))


@dataclass(frozen=True)
class ComparedCurve:
    """The curve of one experiment over its seeds.

    Attributes:
        epochs: `[point]` float64, or the values of the key that is the x-axis.
        mean: `[point]` float64, the statistic over the seeds.
        low, high: `[point]` float64, its confidence interval; NaN if there is only one seed.
        seeds: `[seed, point]` float64, each seed's own curve.
        ends: `[seed]` float64, where each seed's values end, even if the curve ends before or after.
    """

    epochs: Array
    mean: Array
    low: Array
    high: Array
    seeds: Array
    ends: Array

    @property
    def seeds_shown(self) -> str:
        """The number of seeds. If one of them ends much before another: also where the curve is cut or held."""
        number = "1 seed, no interval" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        shown, first, last = self.epochs[-1], self.ends.min(), self.ends.max()
        if first >= COMPLETE * last:
            return number
        return f"{number}, to {shown:g} of {last:g}" if shown < last else f"{number}, the shortest held from {first:g}"


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]], bool]:
    """Returns the header and the complete rows of an aggregator's file, and whether its last line is incomplete."""
    lines = path.read_text().splitlines(keepends=True)
    # The process ended while it wrote a line that has no end of line. The line's numbers may be cut short.
    is_cut = bool(lines) and not lines[-1].endswith("\n")
    reader = csv.DictReader(lines[:-1] if is_cut else lines)
    rows = [row for row in reader if (row.get("epoch") or "").isdigit()]
    return list(reader.fieldnames or []), rows, is_cut
