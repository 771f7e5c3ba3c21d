"""A buffer taken apart for pickling, and put together again."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from really.replay._ring import Ring
from really.replay.columns import Spec

if TYPE_CHECKING:
    from really.replay.buffer import ReplayBuffer
    from really.replay.readers import Reader

SHARED_ROWS = 4096
"""Rows that are pickled together where they share frames."""


def taken_apart(buffer: ReplayBuffer, protocol: int) -> tuple[Any, ...]:
    """What `__reduce_ex__` is to return: rows, oldest first, schema, generator, priorities."""
    buffer._check_open("pickling")
    storage, ring = buffer._storage, buffer._ring
    if storage is not None and not storage.writable:
        return _reopened, (type(buffer), storage.path, buffer.state_dict(), buffer.n_step, buffer.gamma)
    if ring is None:
        return _restored, (type(buffer), buffer._arguments(), buffer.state_dict(), None, [], None)
    layout = (buffer.spec, ring.offsets, ring.stride)
    with buffer.open_reader(keeps=True) as reader:  # rows and their priorities are those of one moment
        priorities = buffer._priorities_of(reader.next_row, reader.next_row + reader.num_left)
        rows = _rows(reader, protocol)
    return _restored, (type(buffer), buffer._arguments(), buffer.state_dict(), layout, rows, priorities)


def _rows(reader: Reader, protocol: int) -> list[Any]:
    ring, num = reader.ring, reader.num_rows
    if ring.num_sharings:
        return [reader.read_shared(SHARED_ROWS) for _ in range(0, num, SHARED_ROWS)]
    parts: list[Any] = []
    for part in ring.records():  # rows that have been put since then may stand behind those of the reader
        parts.append(part[: num - sum(len(before) for before in parts)])
    return [pickle.PickleBuffer(cast(Any, part)) if protocol >= 5 else part.tobytes() for part in parts if len(part)]


def _reopened(
    buffer_type: type[ReplayBuffer], path: Path, state: Mapping[str, Any], n_step: int, gamma: float | None
) -> ReplayBuffer:
    buffer = buffer_type.open(path, n_step=n_step, gamma=gamma)
    buffer.load_state_dict(state)
    return buffer


def _restored(
    buffer_type: type[ReplayBuffer],
    made_with: dict[str, Any],
    state: Mapping[str, Any],
    layout: tuple[Spec, list[int], int] | None,
    rows: list[Any],
    priorities: dict[str, Any] | None,
) -> ReplayBuffer:
    buffer = buffer_type(**made_with, spec=None if layout is None else layout[0])
    buffer.load_state_dict(state)
    if layout is None:
        return buffer
    ring, (spec, offsets, stride) = cast(Ring, buffer._ring), layout
    if priorities is not None:
        buffer._begin_with(priorities)
    formats = [np.dtype((dtype, shape)) for dtype, shape in spec.values()]
    for part in rows:
        if not isinstance(part, dict):
            record = np.dtype({"names": list(spec), "formats": formats, "offsets": offsets, "itemsize": stride})
            records = np.frombuffer(part, record)
            part = {key: records[key] for key in spec}
        ring.put(part)
    return buffer
