"""Predicates: which rows of a buffer a condition chooses, a function of NumPy columns or a condition in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.packages import needed
from really.data.schema import Spec, row_nbytes
from really.errors import InvalidTypeError, InvalidValueError
from really.replay._ring import Ring
from really.replay.columns import spec_of

NUMBER = "number"
"""The column of row numbers that a predicate has besides, unless the buffer has one of that name."""
PIECE = 1 << 24
"""Bytes of the columns that are tested at a time."""
MOST_ROWS = 1 << 18
"""Rows that are tested at a time, at most."""
TABLE = "really_rows"

Columns = Mapping[str, NDArray[Any]]
Predicate = str | Callable[[Columns], Any]
"""A condition in SQL, or a function from columns [n, ...] to bool [n]."""


class _GoneError(Exception):
    """Puts dropped a row while it was read."""


class LazyColumns(Mapping[str, NDArray[Any]]):
    """The columns of some rows, each read when it is asked for. `numbers` are the rows', ascending int64 [n]."""

    def __init__(self, ring: Ring, numbers: NDArray[np.int64]) -> None:
        self._ring, self._numbers = ring, numbers
        self._spec = spec_of(ring)
        self._shares_frames = {ring.names[at] for sharing in ring.shared for at in sharing[0]}

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key == NUMBER and key not in self._spec:
            return self._numbers.copy()
        dtype, shape = self._spec[key]
        if key in self._shares_frames:
            batch = self._ring.take(self._numbers, len(self._numbers), by_number=True)
            if batch is None:
                raise _GoneError
            return batch[key]
        first = int(self._numbers[0])
        columns = {key: np.empty((int(self._numbers[-1]) + 1 - first, *shape), dtype)}
        if not self._ring.read_keys(first, len(columns[key]), columns):
            raise _GoneError
        return columns[key][self._numbers - first]

    def __iter__(self) -> Iterator[str]:
        yield from self._spec
        if NUMBER not in self._spec:
            yield NUMBER

    def __len__(self) -> int:
        return len(list(iter(self)))


def matching(ring: Ring, where: Predicate) -> NDArray[np.int64]:
    """Numbers of the rows that are left and that the predicate chooses, int64 [n]; rows that drop out are left out.

    Raises:
        InvalidValueError: the condition is no SQL of these columns, or the function returns something else than bool
            [n].
        InvalidTypeError: it is neither text nor a function.
        MissingPackageError: a condition in SQL needs DuckDB.
    """
    if isinstance(where, str):
        return _matching_sql(ring, where)
    if not callable(where):
        raise InvalidTypeError(f"where: expected a condition in SQL, or a function of columns, got {where!r}")
    return _all_pieces(ring, spec_of(ring), lambda columns, num: _flags(where(columns), num))


def _matching_sql(ring: Ring, where: str) -> NDArray[np.int64]:
    with needed("where", "DuckDB for a condition in SQL", "sql", "a function of NumPy columns"):
        import duckdb

    from really.data import arrow_types

    spec = {key: column for key, column in spec_of(ring).items() if key.lower() in where.lower()}
    schema = arrow_types.schema_of(spec, "float32")
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:

        def choose(columns: Columns, num: int) -> NDArray[np.bool_]:
            table = arrow_types.to_batch({key: columns[key] for key in spec}, schema) if spec else None
            rows = _with_places(table, columns[NUMBER] if NUMBER not in spec else None, num)
            connection.register(TABLE, rows)
            try:
                chosen = connection.execute(f'SELECT "{PLACE}" FROM {TABLE} WHERE ({where}\n)').fetchnumpy()[PLACE]
            except duckdb.Error as error:
                raise InvalidValueError(
                    f"where: expected a condition in SQL on the columns {list(spec_of(ring))} and {NUMBER!r}, got "
                    f"{where!r}: {error}"
                ) from error
            finally:
                connection.unregister(TABLE)
            found = np.zeros(num, np.bool_)
            found[np.asarray(chosen, np.int64)] = True
            return found

        return _all_pieces(ring, spec, choose)


PLACE = "really.place"


def _with_places(table: Any, numbers: NDArray[np.int64] | None, num: int) -> Any:
    """An Arrow table of the columns, of row numbers, and of places from 0 on."""
    import pyarrow as pa

    columns = {} if table is None else dict(zip(table.schema.names, table.columns, strict=True))
    if numbers is not None:
        columns[NUMBER] = pa.array(numbers)
    return pa.table(columns | {PLACE: pa.array(np.arange(num))})


def _all_pieces(ring: Ring, spec: Spec, choose: Callable[[Columns, int], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The numbers of all rows that are left for which `choose` says True, piece by piece."""
    first, end = ring.held_rows()
    num = max(1, min(MOST_ROWS, PIECE // max(1, row_nbytes(spec))))
    found = [np.zeros(0, np.int64)]
    while first < end:
        numbers = np.arange(max(first, ring.oldest_row), min(first + num, end))
        numbers = numbers[~ring.are_removed(numbers)]
        try:
            if len(numbers):
                found.append(numbers[choose(LazyColumns(ring, numbers), len(numbers))])
        except _GoneError:
            continue
        first += num
    return np.concatenate(found)


def _flags(got: Any, num: int) -> NDArray[np.bool_]:
    flags = np.asarray(got)
    if flags.dtype != np.bool_ or flags.shape != (num,):
        raise InvalidValueError(
            f"where: expected a function that returns bool [{num}], got {flags.dtype} of {list(flags.shape)}"
        )
    return flags
