"""Pickles of a buffer: what it is reduced to, and how it is made again."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from really.data.schema import ColumnSpec
from really.replay.options import BufferOptions
from really.replay.readers import Reader
from really.replay.rows import Rows
from really.replay.snapshot import Description

SHARED_ROWS = 4096
"""Rows that are pickled together if they share frames."""


def reduce(buffer: Rows, protocol: int) -> tuple[Any, ...]:
    """The arguments of the classmethod that a pickle calls: description, layout of the records, and rows."""
    with buffer.snapshot("pickling") as snapshot:
        options, number = snapshot.options.to_dict(), snapshot.first_number
        # Plain tuples, so that a pickle names no class of this package but the buffer.
        spec = None if snapshot.spec is None else {key: tuple(column) for key, column in snapshot.spec.items()}
        about = (options, snapshot.generator, spec, number, snapshot.priorities, snapshot.removed)
        if spec is None:
            return about, None, []
        if snapshot.sharings:
            return about, None, _shared_rows(snapshot.reader)
        layout = (snapshot.reader.ring.offsets, snapshot.reader.ring.stride)
        return about, layout, _records(snapshot.reader, protocol)


def description(about: tuple[Any, ...]) -> Description:
    """The description that `reduce` took apart."""
    options, generator, columns, *others = about
    spec = None if columns is None else {key: ColumnSpec(*column) for key, column in columns.items()}
    return Description(BufferOptions.from_dict(options), generator, spec, *others)


def parts(
    about: tuple[Any, ...], layout: tuple[list[int], int] | None, rows: Iterable[Any]
) -> Iterator[dict[str, Any]]:
    """The rows that `reduce` took apart, as columns."""
    spec = description(about).spec
    if spec is None or layout is None:
        yield from rows
        return
    offsets, stride = layout
    formats = [np.dtype((dtype, shape)) for dtype, shape in spec.values()]
    record = np.dtype({"names": list(spec), "formats": formats, "offsets": offsets, "itemsize": stride})
    for part in rows:
        records = np.frombuffer(part, record)
        yield {key: records[key] for key in spec}


def _shared_rows(reader: Reader) -> list[dict[str, Any]]:
    return [reader.read_shared(SHARED_ROWS) for _ in range(0, reader.num_rows, SHARED_ROWS)]


def _records(reader: Reader, protocol: int) -> list[Any]:
    records = reader.records()
    return [pickle.PickleBuffer(cast(Any, part)) if protocol >= 5 else part.tobytes() for part in records]
