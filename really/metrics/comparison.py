"""Learning curves of several experiments, each over its seeds, with bootstrap confidence intervals."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from really._utils.atomic_files import writable_folder
from really._utils.checks import checked_integer, checked_path
from really.errors import InvalidTypeError, InvalidValueError, one_of
from really.metrics.curves import COMPLETE, CSV_NAME, STEP, Array, ComparedCurve, read_csv
from really.metrics.plots import MAGIC, check_figure, draw_comparison

log = logging.getLogger("really")

# Points of a curve. A figure cannot show more of them apart.
POINTS = 400
RESAMPLES = 2000
# With fewer seeds there is no quarter to leave out.
LEAST_FOR_IQM = 4
# Suffixes of figures that `plot` does not write.
OTHER_FIGURES = (".pdf", ".eps", ".ps", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".webp")


def _mean(values: Array) -> Array:
    return values.mean(axis=-2)  # type: ignore[no-any-return]


def _median(values: Array) -> Array:
    return np.asarray(np.median(values, axis=-2))


def _interquartile_mean(values: Array) -> Array:
    """The mean of the middle half, as `scipy.stats.trim_mean(values, 0.25)`; Agarwal et al. 2021, NeurIPS."""
    seeds = values.shape[-2]
    cut = seeds // 4
    return np.sort(values, axis=-2)[..., cut : seeds - cut, :].mean(axis=-2)  # type: ignore[no-any-return]


STATISTICS: Mapping[str, Callable[[Array], Array]] = {"mean": _mean, "iqm": _interquartile_mean, "median": _median}


@dataclass(frozen=True)
class Comparison:
    """Experiments compared: `curves` by name, and which key, axis and statistic they show. `print` shows their ends."""

    curves: Mapping[str, ComparedCurve]
    key: str
    x: str
    statistic: str
    confidence: float

    def __getitem__(self, name: str) -> ComparedCurve:
        return self.curves[name]

    def __str__(self) -> str:
        width = max(map(len, self.curves))
        lines = [f"{self.statistic} of {self.key} at the end, with its {self.confidence:.0%} interval"]
        for name, curve in self.curves.items():
            interval = "" if len(curve.seeds) == 1 else f"  [{curve.low[-1]:.4g}, {curve.high[-1]:.4g}]"
            lines.append(f"{name:<{width}}  {curve.mean[-1]:.4g}{interval}  ({curve.seeds_shown})")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str], x_label: str | None = None, y_label: str | None = None) -> Path:
        """Writes `<path>.png` and `<path>.svg`, each complete or not at all; returns the first path.

        Args:
            path: where to, without a suffix (a suffix is removed); its folder is created if it is missing.
            x_label: text of the x-axis with its unit, by default `x`.
            y_label: text of the y-axis with its unit, by default the key.
        """
        stem = figure_stem(path)
        x_name = "epoch (updates of the aggregator)" if self.x == "epoch" else self.x
        draw_comparison(
            self.curves, stem, self.statistic, self.confidence, x_label=x_label or x_name, y_label=y_label or self.key
        )
        return stem.with_name(f"{stem.name}.png")


def compare(
    runs: Mapping[str, Any] | Sequence[str | os.PathLike[str]],
    key: str = "reward",
    *,
    path: str | os.PathLike[str] | None = None,
    x: str = "epoch",
    statistic: str = "mean",
    confidence: float = 0.95,
    max_size: int = 5,
    hold_last: bool = False,
    seed: int = 0,
    x_label: str | None = None,
    y_label: str | None = None,
) -> Comparison:
    """Learning curves of several experiments over their seeds, read from the files of aggregators.

    Each seed's curve is smoothed as the aggregator does it, and interpolated linearly onto common points. The interval
    is the percentile bootstrap (Efron and Tibshirani 1993, ch. 13) with 2,000 resamples of whole seeds. With few seeds
    it is too narrow rather than too wide.

    Args:
        runs: folders of aggregators by name, with a list of folders for an experiment of several seeds. Or only a list
            of folders with one seed each; the names are then the parts in which the paths differ. An aggregator's files
            may also be in a folder's subfolder `progress`.
        key: one of the aggregator's keys.
        path: where to write the figure: `<path>.png` and `<path>.svg`.
        x: `epoch`, `step` if updates gave one, or a key that grows with each update.
        statistic: over the seeds: `mean`, `median` or `iqm`, the mean of the middle half.
        confidence: of the interval, between 0 and 1.
        max_size: number of updates over which each seed's curve is averaged first.
        hold_last: a run that ended early keeps its last value; by default a curve ends with its shortest seed.
        seed: of the bootstrap.
        x_label, y_label: texts of the axes with their units.

    Raises:
        InvalidValueError, InvalidTypeError: a folder has no values, or not this key; `x` does not grow; the figure
            cannot be written.
    """
    if not isinstance(key, str):
        raise InvalidTypeError(f"key: expected the name of one key, got {key!r} ({type(key).__name__})")
    if statistic not in STATISTICS:
        raise InvalidValueError(one_of("statistic", statistic, STATISTICS))
    if not 0 < confidence < 1:
        raise InvalidValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    max_size = checked_integer("max_size", max_size)
    if path is not None:
        figure_stem(path)
    rng = np.random.default_rng(seed)
    curves = {}
    for name, folders in _named_folders(runs).items():
        seeds = [_read(folder, key, x, max_size) for folder in folders]
        if statistic == "iqm" and len(seeds) < LEAST_FOR_IQM:
            log.warning(
                "%s: expected %d seeds or more for iqm, got %d: it is the mean", name, LEAST_FOR_IQM, len(seeds)
            )
        curves[name] = _curve(name, seeds, STATISTICS[statistic], confidence, hold_last, rng)
    comparison = Comparison(curves, key, x, statistic, confidence)
    if path is not None:
        comparison.plot(path, x_label, y_label)
    return comparison


def bootstrap(
    seeds: Array, statistic: Callable[[Array], Array], confidence: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Percentile interval of a statistic over the seeds of `[seed, point]`: its lower and upper end, `[point]` each."""
    drawn = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    tail = (1 - confidence) / 2
    # Some points at a time: all points at once would need 2,000 times the memory of the curves.
    parts = [np.quantile(statistic(part[drawn]), (tail, 1 - tail), axis=0) for part in _pieces(seeds)]
    low, high = np.concatenate(parts, axis=1)
    return low, high


def _pieces(seeds: Array) -> Iterable[Array]:
    return (seeds[:, at : at + 50] for at in range(0, seeds.shape[1], 50))


def _curve(
    name: str,
    seeds: Sequence[tuple[Array, Array]],
    statistic: Callable[[Array], Array],
    confidence: float,
    hold_last: bool,
    rng: np.random.Generator,
) -> ComparedCurve:
    first, last = max(x[0] for x, _ in seeds), [x[-1] for x, _ in seeds]
    end = max(last) if hold_last else min(last)
    if end < first:
        raise InvalidValueError(f"runs: expected seeds of {name!r} that overlap, got one that ends before one begins")
    if end < COMPLETE * max(last):
        log.warning("%s: shown up to %g, where its shortest seed ends; others go on to %g", name, end, max(last))
    inside = np.unique(np.concatenate([x[(x >= first) & (x <= end)] for x, _ in seeds]))
    epochs = inside if len(inside) <= POINTS else np.linspace(first, end, POINTS)
    values = np.stack([np.interp(epochs, x, y) for x, y in seeds])
    if len(seeds) == 1:
        log.warning("%s: expected several seeds for an interval, got 1; its curve is drawn without", name)
        low = high = np.full(len(epochs), np.nan)
    else:
        low, high = bootstrap(values, statistic, confidence, rng)
    return ComparedCurve(epochs, statistic(values), low, high, values, np.array(last))


def _read(folder: Path, key: str, x: str, max_size: int) -> tuple[Array, Array]:
    """The x-axis and the smoothed values of one seed, `[point]` each."""
    file = csv_in("runs", folder)
    header, rows, _ = read_csv(file)
    keys = [name.removesuffix(".mean") for name in header if name.endswith(".mean")]
    own = {"epoch", STEP} & {*header} - {*keys}
    for wanted in dict.fromkeys([key, *({x} - own)]):
        if wanted not in keys:
            raise InvalidValueError(one_of(f"{file}", wanted, keys))
    columns = (x if x in own else f"{x}.mean", f"{key}.mean")
    found = [pair for row in rows if (pair := _numbers(row, columns)) is not None]
    points = np.array(found, np.float64).reshape(-1, 2)
    if not len(points):
        raise InvalidValueError(f"{file}: expected values of {key!r}, got none that is finite")
    if (np.diff(points[:, 0]) <= 0).any():
        raise InvalidValueError(f"{file}: expected an x-axis that grows with each update, got {x!r}, which does not")
    return points[:, 0], smoothed(points[:, 1], max_size)


def _numbers(row: Mapping[str, str | None], columns: Sequence[str]) -> list[float] | None:
    """The numbers of a row. Returns None if one is missing or not finite."""
    with contextlib.suppress(TypeError, ValueError):
        numbers = [float(row[name]) for name in columns]  # type: ignore[arg-type]
        if all(map(math.isfinite, numbers)):
            return numbers
    return None


def smoothed(values: Array, window: int) -> Array:
    """The mean of the last `window` values, of fewer at the beginning, `[point]`."""
    window = min(window, len(values))
    first = np.cumsum(values[: window - 1]) / np.arange(1, window)
    # Not by differences of one running sum: a huge value would cost the small values after it their precision.
    return np.concatenate([first, np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=-1)])


def csv_in(name: str, folder: Path) -> Path:
    """The file of an aggregator's folder, or of a run's with one in `progress`; `name` is the argument's in errors."""
    tried = [folder / CSV_NAME, folder / "progress" / CSV_NAME]
    for file in tried:
        if file.is_file():
            return file
    state = "a folder without" if folder.is_dir() else "no folder"
    raise InvalidValueError(f"{name}: expected a folder with an aggregator's {CSV_NAME}, got {str(folder)!r}: {state}")


def _named_folders(runs: Any) -> dict[str, list[Path]]:
    if isinstance(runs, str | os.PathLike):
        runs = [runs]
    if not isinstance(runs, Mapping):
        paths = [checked_path("runs", run) for run in runs]
        runs = dict(zip(_distinct_names(paths), ([path] for path in paths), strict=True))
    if not runs:
        raise InvalidValueError("runs: expected at least one folder, got none")
    named = {}
    for name, folders in runs.items():
        folders = [folders] if isinstance(folders, str | os.PathLike) else folders
        if (
            not isinstance(folders, list | tuple)
            or not folders
            or not all(isinstance(folder, str | os.PathLike) for folder in folders)
        ):
            raise InvalidTypeError(f"runs: expected a folder or a list of folders for {name!r}, got {folders!r}")
        named[str(name)] = [checked_path("runs", folder) for folder in folders]
        if len({path.resolve() for path in named[str(name)]}) < len(folders):
            raise InvalidValueError(f"runs: expected a folder a seed of {name!r}, got one twice: {folders}")
    return named


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """The parts in which the paths differ: each path without the first and last parts that all have in common."""
    parts = [list(path.parts) for path in paths]
    if len(paths) == 1:
        return [paths[0].name or str(paths[0])]
    if len(set(map(tuple, parts))) < len(parts):
        raise InvalidValueError(f"runs: expected different folders, got {[str(path) for path in paths]}")
    for at in (0, -1):
        while all(len(own) > 1 for own in parts) and len({own[at] for own in parts}) == 1:
            for own in parts:
                own.pop(at)
    return ["/".join(own) for own in parts]


def figure_stem(path: str | os.PathLike[str]) -> Path:
    """The path of a figure without its suffix. Raises InvalidValueError if the figure cannot be written."""
    given, path = path, checked_path("path", path)
    ending = path.suffix
    if ending.lower() in OTHER_FIGURES:
        raise InvalidValueError(f"path: expected .png, .svg or no ending: both are written, got {os.fspath(given)!r}")
    stem = path.with_suffix("") if ending in MAGIC else path
    if not Path(given).name:
        raise InvalidValueError(f"path: expected the name of a figure, got {os.fspath(given)!r}")
    writable_folder("path", stem.parent)
    check_figure("path", stem)
    return stem
