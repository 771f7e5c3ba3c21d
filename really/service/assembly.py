"""Assembly: one batch from the batches of several shards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from really._utils.array_pool import ArrayPool
from really.data.frames import FrameColumn, keys_by_frames
from really.replay._ring import place_frames
from really.replay.units import Batch
from really.service.lock import BufferLock
from really.service.shards import Answer, SilentShardError

NO_POSITIONS = np.empty(0, np.int64)
"""Of the only part of a batch."""
LINE = 64
"""Bytes to which the arrays of a batch are aligned."""


class Part(NamedTuple):
    """A shard's part of a batch: the positions of its rows in the batch, and its answer."""

    shard: int
    positions: NDArray[np.int64]
    answer: Answer


class Asked(Protocol):
    """What batches are asked for."""

    def ask(self, shard: int, places: NDArray[np.int64]) -> Answer:
        """Asks a shard for the batch of the rows at these places."""


def asked(shards: Asked, owners: NDArray[np.int64] | int, places: NDArray[np.int64]) -> list[Part]:
    """Asks each shard for its rows of a batch; `places` are [n] or [k, n], and so are `owners`, or one for all."""
    if isinstance(owners, int):
        return [Part(owners, NO_POSITIONS, shards.ask(owners, places))]
    if owners.size and (owners == (first := int(owners.flat[0]))).all():
        return [Part(first, NO_POSITIONS, shards.ask(first, places))]
    if owners.size == 0:
        return [Part(0, NO_POSITIONS, shards.ask(0, places))]  # any shard has the columns of a batch without rows
    owner, place = owners.reshape(-1), places.reshape(-1)
    order = np.argsort(owner, kind="stable")
    sorted_owners = owner[order]
    bounds = [0, *(np.flatnonzero(np.diff(sorted_owners)) + 1).tolist(), len(order)]
    parts = []
    # Shard 0 may be in this process, where it answers at once: the others are asked before.
    for start, stop in reversed(list(itertools.pairwise(bounds))):
        positions = order[start:stop]
        if len(positions):
            shard = int(sorted_owners[start])
            parts.append(Part(shard, positions, shards.ask(shard, place[positions])))
    return parts


class BatchMemory:
    """Memory of batches, which is used again once nothing refers to a batch. Any number of threads may ask."""

    def __init__(self) -> None:
        self._pool, self._lock = ArrayPool(), BufferLock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array with arbitrary contents, aligned to `LINE` bytes."""
        with self._lock:
            block = self._pool.empty((math.prod(shape) * dtype.itemsize + LINE,), np.uint8)
        return np.ndarray(shape, dtype, block, -block.ctypes.data % LINE)


def assembled(parts: list[Part], shape: tuple[int, ...], out: Batch | None, memory: BatchMemory) -> Batch | None:
    """The batch of all parts, key -> [*shape, ...]; None if a shard no longer holds one of the rows."""
    batch = out or {}
    for part in parts:
        rows = _answered(part)
        if rows is None:
            return None
        if len(parts) == 1 and out is None and all(_is_whole(column, shape) for column in rows.values()):
            return rows
        axes = 1 if len(parts) > 1 else len(shape)
        for key, column in rows.items():
            if key not in batch:
                lead = 1 if isinstance(column, FrameColumn) else axes
                batch[key] = memory.empty((*shape, *column.shape[lead:]), column.dtype)
        _write(batch, rows, len(shape), part.positions if len(parts) > 1 else None)
    return batch


def _write(batch: Batch, rows: Mapping[str, Any], axes: int, positions: NDArray[np.int64] | None) -> None:
    """Writes rows to their positions in the arrays of a batch, whose first `axes` are those of rows; or all of them."""
    total = math.prod(next(iter(batch.values())).shape[:axes])
    flat = {key: batch[key].reshape(total, *batch[key].shape[axes:]) for key in rows}
    for keys in keys_by_frames(rows):
        first: FrameColumn = rows[keys[0]]
        before = math.prod(first.frames.shape[1 : 1 + first.axis])
        for some in (keys[at : at + 2] for at in range(0, len(keys), 2)):
            indices, columns = [rows[key].indices for key in some], [flat[key] for key in some]
            place_frames(first.frames, before, indices, columns, positions)
    for key, column in rows.items():
        if isinstance(column, FrameColumn):
            continue
        if positions is None:
            flat[key][...] = column.reshape(flat[key].shape)
        else:
            flat[key][positions] = column


def _is_whole(column: Any, shape: tuple[int, ...]) -> bool:
    """Whether a column can be a batch's as it is."""
    return isinstance(column, np.ndarray) and column.flags.writeable and column.shape[: len(shape)] == shape


def _answered(part: Part) -> Batch | None:
    try:
        return part.answer()
    except SilentShardError:
        return None
