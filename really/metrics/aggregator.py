"""The aggregator: training progress, one point per update, in a CSV file, smoothed and plotted as it grows."""

from __future__ import annotations

import contextlib
import csv
import errno
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import file_errors, writable_folder
from really._utils.checks import checked_integer, checked_number
from really._utils.notebook import ShownFile
from really._utils.published import PublishedAggregator
from really._utils.quiet import tensorflow
from really._utils.reprs import described
from really.errors import InvalidTypeError, InvalidValueError, MissingPackageError, one_of
from really.metrics.curves import CSV_NAME, STEP, Curve, read_csv
from really.metrics.plots import check_figure, draw_progress

PLOT_NAME, EVENTS_NAME = "progress", "tensorboard"


class Aggregator(PublishedAggregator):
    """Collects values under declared keys, one point per update, and draws their progress.

    `update` writes each point to `<path>/progress.csv` (`epoch`, then `<key>.mean` and `<key>.std`) before it returns,
    so nothing is lost if the process ends between two plots. Every `saving_after` updates the aggregator replaces
    `<path>/progress.png` and `progress.svg`; each file appears complete or not at all.

    With a `step` in every update, that number is the x-axis of plots and events, and a column after `epoch`.

    With `init_epoch` the curves start with the points in `path` up to that epoch. Later points do not count: the run
    that wrote them resumes from an earlier model. If the file has rows that the curves do not continue, the aggregator
    renames it to `progress_1.csv` and so on.

    Args:
        path: folder for all files; created if it is missing.
        saving_after: number of updates from one plot to the next.
        aggregator_keys: names of the tracked values.
        max_size: number of updates that the smoothed curve averages over.
        init_epoch: epoch before the first update: the epoch of the loaded model, or 0.
        tensorboard: folder for TensorBoard event files (needs TensorFlow), or True for `<path>/tensorboard`.
        units: of some keys, `{"reward": "points"}`, for the axes.

    Raises:
        InvalidTypeError, InvalidValueError: an argument is invalid, or a folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        saving_after: int = 10,
        aggregator_keys: Sequence[str] = ("loss",),
        max_size: int = 5,
        init_epoch: int = 0,
        tensorboard: str | os.PathLike[str] | bool | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self.keys = _checked_keys(aggregator_keys)
        # Whether updates have steps; None before the first.
        self._has_steps: bool | None = None
        self.saving_after = checked_integer("saving_after", saving_after)
        self.max_size = checked_integer("max_size", max_size)
        self.epoch = checked_integer("init_epoch", init_epoch, 0)
        self.path = writable_folder("path", path)
        _check_files(self.path)
        self.units = _checked_units(self.keys, units)
        self._event_folder = _event_folder(self.path, tensorboard)
        self.tensorboard = tensorboard if isinstance(tensorboard, bool | None) else self._event_folder
        self._events: _EventFiles | None = None
        header, rows = self._stored()
        self._start_curves(header, rows, [row for row in rows if int(row["epoch"]) <= self.epoch])

    def __repr__(self) -> str:
        return described(self, "path", "keys", "epoch")

    def update(self, /, **values: Any) -> None:
        """Adds one point to each given key: the mean over all numbers of its value.

        `step=` is the point's place on the x-axis, such as the environment steps so far, if no key has this name. It
        must not fall, and all updates have one or none has.

        A value is a number, an array, a tensor, or a list of these with any nesting. A value without numbers (an empty
        list) adds no point. If one value is refused, no key gets a point.

        Raises:
            InvalidValueError: a key was not declared, or the step falls, or only some updates have one.
            InvalidTypeError: a value has something other than numbers.
        """
        step = None if STEP in self.curves else self._checked_step(values.pop(STEP, None))
        for key in values:
            if key not in self.curves:
                raise InvalidValueError(one_of("update_aggregator", key, self.keys))
        numbers = {key: _numbers(key, value) for key, value in values.items()}
        self._decide_steps(step)
        self.epoch += 1
        # An infinite loss is a point like any other; it gives no warning.
        with np.errstate(invalid="ignore", over="ignore"):
            points = {key: (float(x.mean()), float(x.std())) for key, x in numbers.items() if x.size}
        for key, (mean, spread) in points.items():
            self.curves[key].add(self.epoch, mean, spread, step)
        self._append_csv(points, step)
        if self._event_folder is not None:
            at = self.epoch if step is None else int(step)
            self._events = self._events or _EventFiles(self._event_folder, at)
            self._events.write(at, [self.curves[key] for key in points])
        if self.epoch % self.saving_after == 0:
            self.plot()

    @property
    def plot_path(self) -> Path:
        """Path of the plot. The `.svg` file is in the same folder."""
        return self.path / f"{PLOT_NAME}.png"

    @property
    def csv_path(self) -> Path:
        """Path of the values."""
        return self.path / CSV_NAME

    def plot(self) -> Path:
        """Draws the plot with all points so far, without regard to `saving_after`; returns its path.

        A notebook shows the path as the figure.
        """
        draw_progress([self.curves[key] for key in self.keys], self.path / PLOT_NAME)
        return ShownFile(self.plot_path)

    def _repr_png_(self) -> bytes | None:
        """The plot with all points so far, for notebooks; None without a point or matplotlib."""
        if not any(len(curve.means) for curve in self.curves.values()):
            return None
        with contextlib.suppress(MissingPackageError):
            return self.plot().read_bytes()
        return None

    @property
    def _header(self) -> list[str]:
        start = ["epoch", STEP] if self._has_steps else ["epoch"]
        return [*start, *(f"{key}.{what}" for key in self.keys for what in ("mean", "std"))]

    def _checked_step(self, step: Any) -> float | None:
        """The x-axis of the next point, or None. Raises InvalidValueError if it falls, or others have one or none."""
        if self._has_steps is not None and self._has_steps != (step is not None):
            before = "the updates before have one" if self._has_steps else "those before have none"
            raise InvalidValueError(f"step: expected one in every update or in none, got {step!r} where {before}")
        if step is None:
            return None
        number = checked_number("step", step, 0, math.inf)
        number = int(number) if number.is_integer() else number
        if number < self._step:
            raise InvalidValueError(f"step: expected a number >= {self._step}, that of the update before, got {number}")
        return number

    def _decide_steps(self, step: float | None) -> None:
        """Notes the step of an update. The first update decides whether there are steps."""
        if self._has_steps is None and step is not None:
            self._has_steps = True
            self._rewrite(self.csv_path, [])
        self._has_steps = step is not None
        self._step = -math.inf if step is None else step

    def _append_csv(self, points: Mapping[str, tuple[float, float]], step: float | None) -> None:
        cells = [str(number) for key in self.keys for number in points.get(key, ("", ""))]
        start = [str(self.epoch)] if step is None else [str(self.epoch), str(step)]
        line = (",".join([*start, *cells]) + "\n").encode()
        with file_errors(self.csv_path, "values"), self.csv_path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if file.write(line) < len(line):  # a full disk took a part of the line; the next line would continue it
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def arguments(self) -> dict[str, Any]:
        """Arguments of an aggregator like this one, with its current epoch as `init_epoch`. JSON can hold them."""
        folder = self.tensorboard
        return {
            "path": str(self.path),
            "saving_after": self.saving_after,
            "aggregator_keys": list(self.keys),
            "max_size": self.max_size,
            "init_epoch": self.epoch,
            "units": self.units,
            "tensorboard": folder if isinstance(folder, bool | None) else str(folder),
        }

    def write_csv(self, path: Path) -> None:
        """Writes all points to another file, in the format of `progress.csv`; `resume` reads them again."""
        rows: dict[int, dict[str, Any]] = {}
        for key, curve in self.curves.items():
            for epoch, x, mean, spread in zip(curve.epochs, curve.x, curve.means, curve.spreads, strict=True):
                row = rows.setdefault(epoch, {"epoch": epoch, STEP: x})
                row |= {f"{key}.mean": mean, f"{key}.std": spread}
        self._rewrite(path, [rows[epoch] for epoch in sorted(rows)])

    def resume(self, path: Path, epoch: int) -> None:
        """Resumes at `epoch` with the points of a file that `write_csv` wrote, in place of all points so far.

        If `progress.csv` has other points, it is renamed.
        """
        rows = read_csv(path)[1]
        self.epoch, self._events = epoch, None
        header, stored = self._stored()
        self._start_curves(header, [row for row in stored if any(list(row.values())[1:])], rows)

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Sets curves and `progress.csv` back to what they are now if the block, which calls `resume`, raises."""
        before, renamed = dict(vars(self)), _free_name(self.csv_path)
        content = self.csv_path.read_bytes() if self.csv_path.exists() else None
        try:
            yield
        except BaseException:
            vars(self).update(before)
            if renamed.exists():
                renamed.replace(self.csv_path)
            elif content is not None:
                self.csv_path.write_bytes(content)
            raise

    def _stored(self) -> tuple[list[str], list[dict[str, str]]]:
        """Header and rows of the file. The header is empty if there is no file or its last line is incomplete."""
        if not self.csv_path.exists():
            return [], []
        header, rows, is_cut = read_csv(self.csv_path)
        return [] if is_cut else header, rows

    def _start_curves(self, header: Sequence[str], stored: list[dict[str, str]], rows: list[dict[str, str]]) -> None:
        """Starts the curves with `rows`. Renames the file if it has other rows."""
        self._has_steps = STEP in rows[0] if rows else None
        self._step = float(rows[-1][STEP]) if self._has_steps else -math.inf
        self.curves = {key: Curve(key, self.max_size, unit=self.units[key]) for key in self.keys}
        for row in rows:
            for key in self.keys:
                if row.get(f"{key}.mean"):
                    mean, spread = float(row[f"{key}.mean"]), float(row[f"{key}.std"])
                    self.curves[key].add(int(row["epoch"]), mean, spread, _number(row.get(STEP)))
        if list(header) == self._header and stored == rows:
            return
        if stored:
            self.csv_path.rename(_free_name(self.csv_path))
        self._rewrite(self.csv_path, rows)

    def _rewrite(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        with file_errors(path, "values"), path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._header, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class _EventFiles:
    """TensorBoard event files: `<key>/mean` and `<key>/smoothed` as scalars.

    Tells TensorBoard to drop events from step `first` on in earlier files: this run resumes from before them.
    """

    def __init__(self, folder: Path, first: int) -> None:
        tf = tensorflow("tensorboard", "TensorFlow for event files")
        self._summary, self._float = tf.summary, tf.constant
        self._writer = tf.summary.create_file_writer(str(folder))
        # Written here: `tf.summary.scalar` would need the tensorboard package for it.
        kind = tf.compat.v1.SummaryMetadata
        self._metadata = kind(plugin_data=kind.PluginData(plugin_name="scalars"))
        log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        start = tf.compat.v1.Event(wall_time=time.time(), step=first, session_log=log)
        # `tf.summary` has no function for whole events.
        tf.raw_ops.ImportEvent(writer=self._writer._resource, event=start.SerializeToString())
        self._writer.flush()

    def write(self, epoch: int, curves: Iterable[Curve]) -> None:
        with self._writer.as_default():
            for curve in curves:
                for what, number in (("mean", curve.means[-1]), ("smoothed", curve.smoothed[-1])):
                    self._summary.write(f"{curve.name}/{what}", self._float(number), epoch, self._metadata)
        self._writer.flush()


def _number(text: str | None) -> float | None:
    number = None if text is None else float(text)
    return int(number) if number is not None and number.is_integer() else number


def _event_folder(path: Path, tensorboard: str | os.PathLike[str] | bool | None) -> Path | None:
    if tensorboard is None or tensorboard is False:
        return None
    return writable_folder("tensorboard", path / EVENTS_NAME if tensorboard is True else tensorboard)


def _numbers(key: str, value: Any) -> NDArray[np.float64]:
    """All numbers in a value, `[n]` float64."""
    if isinstance(value, list | tuple):
        parts = [_numbers(key, part) for part in value] if not _is_flat(value) else [np.asarray(value, np.float64)]
        return np.concatenate([np.empty(0), *parts])
    try:
        array = np.asarray(value)
        if array.dtype.kind in "biufV":
            return array.astype(np.float64).ravel()
    except Exception as error:
        # Symbolic tensors, and tensors of other libraries, raise errors of their own.
        raise InvalidTypeError(f"update_aggregator: expected numbers at {key!r}, got {value!r}: {error}") from error
    raise InvalidTypeError(f"update_aggregator: expected numbers at {key!r}, got {value!r} ({type(value).__name__})")


def _is_flat(values: Sequence[Any]) -> bool:
    """Whether all values are plain numbers, so that one conversion does for a long list."""
    return all(type(value) in (float, int) for value in values)


def _checked_keys(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise InvalidTypeError(f"aggregator_keys: expected a list of names, got {keys!r} ({type(keys).__name__})")
    names = tuple(dict.fromkeys(keys))
    if not names:
        raise InvalidValueError("aggregator_keys: expected at least one name, got none")
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidTypeError(f"aggregator_keys: expected names, got {name!r}")
    return names


def _checked_units(keys: Sequence[str], units: Mapping[str, str] | None) -> dict[str, str]:
    """The unit of each key; an empty text if it has none."""
    for key, unit in (units or {}).items():
        if key not in keys:
            raise InvalidValueError(one_of("units", key, keys))
        if not isinstance(unit, str):
            raise InvalidTypeError(f"units: expected text at {key!r}, got {unit!r}")
    return {key: (units or {}).get(key, "") for key in keys}


def _check_files(folder: Path) -> None:
    """Raises InvalidValueError if something else has the name of a file that the aggregator writes."""
    file = folder / CSV_NAME
    if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        raise InvalidValueError(f"path: expected a file that can be written, got {str(file)!r}, which cannot")
    if file.exists():
        with file.open("rb") as opened:
            start = opened.read(5)
        if not b"epoch".startswith(start):
            raise InvalidValueError(f"path: expected an aggregator's file, or none, got another's {str(file)!r}")
    check_figure("path", folder / PLOT_NAME)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    return name
