"""Curves of training progress: one run's as it grows, its CSV file, and one experiment's over several seeds."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from really._utils.input_files import read_small, reading
from really.errors import InvalidFileError, InvalidValueError

Array = NDArray[np.float64]
CSV_NAME = "progress.csv"
# The column of the x-axis, if updates give one.
STEP = "step"
MOST_CSV_BYTES = 1 << 30
EPOCH, NUMBER = re.compile(r"[0-9]{1,18}"), re.compile(r"|nan|-?(inf|[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?)")
# A seed whose values end at this part of the longest seed's, or later, counts as complete: whole episodes do not end at
# exactly the same step.
COMPLETE = 0.95


@dataclass
class Curve:
    """One key's points, in the order of their epochs. All lists have the same length.

    `means` and `spreads` are mean and standard deviation of the values given in one update. `smoothed` and `bands` are
    the same over the values of the last `window` updates that had any; each update counts equally. `steps` is the
    x-axis if updates give one, and empty otherwise.
    """

    name: str
    window: int
    epochs: list[int] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    bands: list[float] = field(default_factory=list)
    unit: str = ""
    steps: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name and unit, for an axis."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    @property
    def x(self) -> list[int] | list[float]:
        """The x-axis: steps, or epochs if updates give no steps."""
        return self.steps or self.epochs

    def add(self, epoch: int, mean: float, spread: float, step: float | None = None) -> None:
        """Appends a point, and the point of the smoothed curve that follows from it."""
        self.epochs.append(epoch)
        if step is not None:
            self.steps.append(step)
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
    """Returns the header and the complete rows of an aggregator's file, and whether its last line is incomplete.

    Raises:
        InvalidFileError: it is no ordinary file, or a line that is complete is none that an aggregator wrote; the error
            names the line.
    """
    with reading(path, "the values of an aggregator"):
        *lines, last = read_small(path, MOST_CSV_BYTES).decode().split("\n")
        # The process ended while it wrote a line that has no end of line. The line's numbers may be cut short.
        try:
            cells = [*csv.reader(lines, strict=True)]
        except csv.Error as error:
            raise InvalidValueError(str(error)) from error
    header, rows = cells[0] if cells else [], list[dict[str, str]]()
    start = ["epoch", STEP] if header[1:2] == [STEP] else ["epoch"]
    keys = [name.removesuffix(".mean") for name in header[len(start) :: 2]]
    if header and header != [*start, *(f"{key}.{what}" for key in dict.fromkeys(keys) for what in ("mean", "std"))]:
        raise _damaged(path, 1, "epoch, then <key>.mean and <key>.std of different keys", lines[0])
    for number, row in enumerate(cells[1:], 2):
        before = int(rows[-1]["epoch"]) if rows else -1
        if len(row) != len(header) or not EPOCH.fullmatch(row[0]) or int(row[0]) <= before:
            raise _damaged(path, number, f"an epoch after {before} and {len(header) - 1} values", ",".join(row))
        if not all(NUMBER.fullmatch(cell) for cell in row[1:]) or not all(row[: len(start)]):
            raise _damaged(path, number, "numbers", ",".join(row))
        points = zip(row[len(start) :: 2], row[len(start) + 1 :: 2], strict=True)
        if any(bool(mean) != bool(std) for mean, std in points):
            raise _damaged(path, number, "a mean and a deviation, or neither", ",".join(row))
        rows.append(dict(zip(header, row, strict=True)))
    return header, rows, bool(last)


def read_curves(path: Path, window: int) -> list[Curve]:
    """The curves of an aggregator's file, smoothed over `window` updates. Raises InvalidFileError as `read_csv`."""
    header, rows, _ = read_csv(path)
    curves = [Curve(name.removesuffix(".mean"), window) for name in header if name.endswith(".mean")]
    for row in rows:
        step = float(row[STEP]) if STEP in row else None
        for curve in curves:
            if row[f"{curve.name}.mean"]:
                curve.add(int(row["epoch"]), float(row[f"{curve.name}.mean"]), float(row[f"{curve.name}.std"]), step)
    return curves


def _damaged(path: Path, line: int, expected: str, got: str) -> InvalidFileError:
    return InvalidFileError(f"{path}: line {line:,}: expected {expected}, got {got[:100]!r}")
