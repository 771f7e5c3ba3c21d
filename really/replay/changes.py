"""The verbs of a buffer that change rows it holds already: columns are written, rows are removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really.data.schema import ColumnSpec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, one_of
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.columns import fit, select, spec_of
from really.replay.draws import held
from really.replay.episode_verbs import EpisodeRows
from really.replay.episodes import refuse_empty
from really.replay.predicates import Predicate, matching
from really.replay.stored import StoredRows
from really.replay.trajectories import Trajectories, TrajectoryColumns

if TYPE_CHECKING:
    import pyarrow as pa


class RowChanges(EpisodeRows):
    """What `ReplayBuffer` and `ShardedBuffer` inherit: they write columns of rows, and remove rows.

    A row's number is how many rows the buffer had taken before it. It stays the same as long as the row is held.
    """

    def numbers(self, indices: ArrayLike | None = None) -> NDArray[np.int64]:
        """Numbers of the rows of these indices by age, [n] or [k, n] int64; by default of all rows, oldest first.

        `numbers(buffer.sample_indices(n))` are numbers of drawn rows. Batches of prioritized replay have them in
        `index`, sequences in `number`, and `to_arrow()` gives rows in the order of `numbers()`.

        Raises:
            EmptyBufferError: no rows are held.
            InvalidValueError, InvalidTypeError: an index has no row, or they are no integers.
        """
        self.check_open("numbers")
        ring = held("numbers", self._ring)
        found = arguments.checked_indices(np.arange(len(ring)) if indices is None else indices).copy()
        ages = found.copy()
        if not ring.numbers_of(found):
            raise InvalidValueError(
                f"numbers: expected indices from 0 to {len(ring) - 1}, got {arguments.outsiders(ages, len(ring))}"
            )
        return found

    def remove(
        self,
        numbers: ArrayLike | None = None,
        *,
        where: Predicate | None = None,
        episodes: pa.Table | ArrayLike | None = None,
    ) -> int:
        """Removes rows: from then on everything is as if they had never been put. Returns how many were removed.

        They are never drawn again, `len(buffer)` counts the rows that are left, an index by age is the place among
        those, and what is drawn uniformly is uniform over those. Order and numbers of the others stay, rows drop out
        in the same order as before, and a trajectory ends before a removed row. The memory of a removed row is used
        again when the row drops out. One argument says which rows; all of them are removed, or none if there is an
        error. On disk the removal is durable when the call returns, and a kill leaves all of it or nothing.

        Args:
            numbers: of rows, integers of any shape. Rows that have dropped out, or are removed, are ignored.
            where: a condition in SQL on the columns and `number`, such as "reward < 0" (by DuckDB, the extra `sql`), or
                a function from a mapping of columns [n, ...] to bool [n].
            episodes: rows of a table that `episodes` gave, or numbers of one row of each episode. First rows of an
                episode of the table may have dropped out since.

        Raises:
            EmptyBufferError: there is no schema yet.
            InvalidValueError: a row with such a number was never put; the condition is no SQL; there is not exactly one
                argument.
            InvalidTypeError: numbers are no integers.
            ReadOnlyError, ClosedError, FileError: the buffer is on disk and cannot be written.
        """
        given = [name for name, value in _named(numbers, where, episodes) if value is not None]
        if len(given) != 1:
            raise InvalidValueError(f"remove: expected one of numbers, where and episodes, got {given or 'none'}")
        ring = self._changed_ring("remove")
        if where is not None:
            chosen = matching(ring, where)
        elif episodes is not None:
            chosen = self._rows_of_episodes(ring, episodes)
        else:
            chosen = checked_numbers("numbers", numbers, ring)
        return self._remove_rows(ring, chosen)

    def update(self, numbers: ArrayLike, columns: Mapping[str, Any]) -> int:
        """Writes columns of rows that are held: other threads and processes see all of the call or nothing.

        Fresh recurrent states after learning, changed rewards and labels are stored so. The next batch has them. An
        update of a column that says where episodes end, or whose rows they are, or by whose values rows are drawn,
        makes the next draw read that column of all rows again. On disk the update is durable when the call returns, and
        a kill leaves all of it or nothing.

        Args:
            numbers: of rows, integers of any shape [*lead]. Rows that have dropped out, or are removed, are ignored. Of
                a row that comes twice the last values count.
            columns: mapping from key to values [*lead, ...] of the column's shape, which cast to its dtype as in `put`.

        Returns:
            How many of the rows are written; a row that comes twice counts twice.

        Raises:
            EmptyBufferError: there is no schema yet.
            InvalidValueError: a row with such a number was never put; a key is none of the buffer's, or shares frames
                with other rows, which cannot be written; values have another shape, or do not fit the dtype; the buffer
                is on disk and in a checkpoint, which could not return to those values. Nothing is written.
            InvalidTypeError: numbers are no integers, or values of another kind.
            ReadOnlyError, ClosedError, FileError: the buffer is on disk and cannot be written.
        """
        ring = self._changed_ring("update")
        rows = checked_numbers("numbers", numbers, ring)
        return self._update_rows(ring, rows, checked_columns(ring, columns, np.shape(numbers)))

    def _check_writable(self, what: str) -> None:
        """Raises an error, naming `what`, if rows cannot be changed."""
        raise NotImplementedError

    def _remove_rows(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        """Removes these rows; returns how many of them were left."""
        raise NotImplementedError

    def _update_rows(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        """Writes columns of these rows; returns how many of them are written."""
        raise NotImplementedError

    def _changed_ring(self, what: str) -> Ring:
        """The ring, whose rows may be changed."""
        self._check_writable(what)
        if self._ring is None:
            self.check_open(what)
            raise refuse_empty(what)
        return self._ring

    def _rows_of_episodes(self, ring: Ring, episodes: Any) -> NDArray[np.int64]:
        """Numbers of the rows held of the episodes that have these rows."""
        given = [episodes]
        if hasattr(episodes, "column_names"):  # the first row may have dropped out, or rows between may be removed
            given = [episodes["first"], *([episodes["last"]] if "last" in episodes.column_names else [])]
        rows = np.unique(np.concatenate([checked_numbers("episodes", numbers, ring) for numbers in given]))
        if self._known_episodes is None:
            columns = TrajectoryColumns.of(spec_of(ring), what="remove: episodes")
            self._known_episodes = columns, Trajectories(ring, columns)
        index = self._known_episodes[1]
        try:
            before, after = index.steps_around(rows)
        except EmptyBufferError:
            return np.zeros(0, np.int64)
        is_held = before >= 0
        rows, before, lengths = rows[is_held], before[is_held], (before + after + 1)[is_held]
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths + before, lengths)
        found = index.step_on(np.repeat(rows, lengths), places)
        return np.unique(found[found >= 0])


class ChangedRows(StoredRows, RowChanges):
    """What `ReplayBuffer` inherits: its storage changes rows."""

    def _check_writable(self, what: str) -> None:
        self._storage.check_writable(what)

    def _remove_rows(self, ring: Ring, numbers: NDArray[np.int64]) -> int:
        return self._storage.remove(ring, numbers)

    def _update_rows(self, ring: Ring, numbers: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> int:
        return self._storage.update(ring, numbers, columns)


def checked_columns(ring: Ring, columns: Mapping[str, Any], lead: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """The values of an update as C-contiguous arrays [n, ...] of the ring's dtypes; raises an error for others."""
    if not isinstance(columns, Mapping):
        raise InvalidTypeError(f"update: expected a mapping from key to values, got {type(columns).__name__}")
    if not columns:
        raise InvalidValueError("update: expected a column or more, got none")
    spec = spec_of(ring)
    shares_frames = {ring.names[at] for sharing in ring.shared for at in sharing[0]}
    found = {}
    for key, values in columns.items():
        if key not in spec:
            raise InvalidValueError(one_of("update", key, spec))
        if key in shares_frames:
            raise InvalidValueError(
                f"update: expected columns that are stored row by row, got {key!r}, whose rows share frames; a buffer "
                f"made with dedup=False can write it"
            )
        found[key] = _fitted(key, values, spec[key], lead)
    return found


def _fitted(key: str, values: Any, column: ColumnSpec, lead: tuple[int, ...]) -> NDArray[Any]:
    """Values [*lead, ...] as rows [n, ...] of this column; the errors are those of a put."""
    try:
        value = select({key: values}, [key])[key]
        if value.array.shape != (*lead, *column.shape):
            raise InvalidValueError(
                f"put: key {key!r}: expected shape {[*lead, *column.shape]}, got {list(value.array.shape)}"
            )
        rows = value._replace(array=np.asarray(value.array).reshape(math.prod(lead), *column.shape))
        return np.ascontiguousarray(fit({key: rows}, {key: column})[key])
    except (InvalidValueError, InvalidTypeError) as error:
        raise type(error)(str(error).replace("put:", "update:", 1)) from None


def checked_numbers(what: str, numbers: Any, ring: Ring) -> NDArray[np.int64]:
    """Row numbers as int64 [n]; raises InvalidTypeError, or InvalidValueError for a row that was never put."""
    try:
        given = np.asarray(numbers)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{what}: expected row numbers, got {numbers!r}: {error}") from error
    if given.size and given.dtype.kind not in "iu":
        raise InvalidTypeError(f"{what}: expected row numbers, which are integers, got {given.dtype}")
    num_put = ring.num_put
    wrong = (given < 0) | (given >= num_put) if given.size else np.zeros(0, np.bool_)
    if wrong.any():
        raise InvalidValueError(
            f"{what}: expected numbers of rows that were put, from 0 to {num_put - 1}, got {given[wrong].flat[0]}, one "
            f"of {int(wrong.sum())}"
        )
    return np.ascontiguousarray(given, np.int64).reshape(-1)


def _named(numbers: Any, where: Any, episodes: Any) -> list[tuple[str, Any]]:
    return [("numbers", numbers), ("where", where), ("episodes", episodes)]
