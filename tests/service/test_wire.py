"""Rows on the wire: each frame once, compressed where that pays, and the same rows again at the other end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from really.data.frames import FrameColumn
from really.data.packed import Packed
from really.replay._ring import place_frames
from really.service.assembly import BatchMemory, Part, assembled
from really.service.shard import Shard


def rows(first: int, num: int, noise: bool) -> dict[str, np.ndarray]:
    """Stacks of four frames of 2 kB: of noise, or of one bright row."""
    frames = np.zeros((num + 4, 32, 64), np.uint8)
    if noise:
        frames[:] = np.random.default_rng(first).integers(0, 255, frames.shape, np.uint8)
    else:
        frames[np.arange(num + 4), np.arange(first, first + num + 4) % 32] = 255
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)
    return {"id": np.arange(first, first + num), "state": stacks[:-1].copy(), "state_new": stacks[1:].copy()}


def filled(noise: bool) -> Shard:
    shard = Shard(300)
    for first in range(0, 400, 40):
        shard.put_at(first, first, rows(first, 40, noise))
    return shard


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("shape", [(64,), (3, 40)])
def test_rows_arrive_as_a_shard_gives_them_and_frames_travel_once(noise: bool, shape: tuple[int, ...]) -> None:
    shard = filled(noise)
    places = np.random.default_rng(0).integers(100, 400, shape)
    whole: Any = shard.take_at(places)
    order = np.argsort(places, axis=None, kind="stable")
    sent = shard.send_at(places.reshape(-1)[order])
    assert sent is not None
    assert sum(column.nbytes for column in whole.values()) > (1.6 if noise else 20) * sent.nbytes
    assert isinstance(sent.shared[0].frames, Packed) != noise
    got = assembled([Part(0, np.empty(0, np.int64), lambda: sent.received(order))], shape, None, BatchMemory())
    assert got is not None
    assert list(got) == list(whole)
    for key, column in whole.items():
        assert (got[key].dtype, got[key].shape) == (column.dtype, column.shape)
        assert got[key].tobytes() == column.tobytes()
        assert got[key].flags.writeable
        assert got[key].ctypes.data % 64 == 0


def test_parts_of_several_shards_are_put_together() -> None:
    shard = filled(False)
    places = np.random.default_rng(1).integers(100, 400, 50)
    whole: Any = shard.take_at(places)
    chosen = np.arange(50) % 3 == 0
    near = Part(0, np.flatnonzero(chosen), lambda: shard.take_at(places[chosen]))
    order = np.argsort(places[~chosen], kind="stable")
    sent: Any = shard.send_at(places[~chosen][order])
    got: Any = assembled(
        [near, Part(1, np.flatnonzero(~chosen), lambda: sent.received(order))], (50,), None, BatchMemory()
    )
    assert all(got[key].tobytes() == column.tobytes() for key, column in whole.items())


def test_rows_that_dropped_out_are_told() -> None:
    assert filled(False).send_at(np.array([3, 350])) is None


@pytest.mark.parametrize("num", [10, 900])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("dtype", "frame", "stack", "axis"),
    [
        ("u1", (16, 16), 4, 0),
        ("u1", (16, 16), 4, 2),
        ("u1", (16, 16), 3, 1),
        ("f4", (7, 5), 4, 2),
        ("u1", (63, 65), 16, 0),
        ("f4", (300,), 1, 0),
    ],
)
def test_frames_of_several_shards_are_written_to_their_places(
    dtype: str, frame: tuple[int, ...], stack: int, axis: int, ordered: bool, num: int
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (9, *frame)).astype(dtype)
    columns = {
        key: FrameColumn(frames, rng.integers(0, 9, (num, stack), np.int32), axis) for key in ("one", "two", "three")
    }
    rows = columns | {"number": np.arange(num)}
    positions = np.arange(num) if ordered else rng.permutation(num)
    cut = num if ordered else num // 3  # the parts of two shards, or all rows of one
    parts = [Part(0, positions[:cut], lambda: {key: _part(column, slice(cut)) for key, column in rows.items()})]
    if not ordered:
        rest = slice(cut, None)
        parts.append(Part(1, positions[cut:], lambda: {key: _part(column, rest) for key, column in rows.items()}))
    found = assembled(parts, (num,), None, BatchMemory())
    assert found is not None
    for key, column in rows.items():
        expected = np.empty(column.shape, column.dtype)
        expected[positions] = column
        np.testing.assert_array_equal(found[key], expected)


def _part(column: Any, chosen: slice) -> Any:
    if isinstance(column, FrameColumn):
        return FrameColumn(column.frames, column.indices[chosen], column.axis)
    return column[chosen]


@pytest.mark.parametrize(
    ("index", "position", "what"),
    [(9, 0, "row 1 has no"), (-1, 0, "row 1 has no"), (0, 4, "row 1 has no"), (0, -1, "row 1 has no")],
)
def test_a_row_without_a_frame_or_a_place_is_refused(index: int, position: int, what: str) -> None:
    frames, columns = np.ones((9, 64), np.uint8), [np.zeros((4, 2, 64), np.uint8)]
    indices = np.array([[0, 1], [2, index]], np.int32)
    with pytest.raises(IndexError, match=what):
        place_frames(frames, 1, [indices], columns, np.array([3, position]))


@pytest.mark.parametrize(
    "given",
    [
        {"indices": [np.zeros((2, 2), np.int64)]},
        {"indices": [np.zeros((2, 4), np.int32)[:, ::2]]},
        {"columns": [np.zeros((4, 2, 32), np.uint8)]},
        {"columns": [np.zeros((4, 2, 64), np.int8)]},
        {"positions": np.zeros(3, np.int64)},
        {"frames": np.ones((9, 128), np.uint8)[:, ::2]},
        {"indices": [np.zeros((2, 2), np.int32)] * 3, "columns": [np.zeros((4, 2, 64), np.uint8)] * 3},
    ],
)
def test_arrays_of_another_layout_are_refused(given: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {"frames": np.ones((9, 64), np.uint8), "outer": 1} | {
        "indices": [np.zeros((2, 2), np.int32)],
        "columns": [np.zeros((4, 2, 64), np.uint8)],
        "positions": np.array([1, 0]),
    }
    place_frames(**arrays)
    with pytest.raises(ValueError, match="expected"):
        place_frames(**(arrays | given))


def test_memory_of_a_batch_is_used_again_once_nobody_has_it() -> None:
    memory = BatchMemory()
    first = memory.empty((1 << 20, 2), np.dtype(np.uint8))
    view, where = first[5:], first.ctypes.data
    del first
    assert memory.empty((1 << 20, 2), np.dtype(np.uint8)).ctypes.data != where
    del view
    again = memory.empty((1 << 20, 2), np.dtype(np.uint8))
    assert (again.ctypes.data, again.ctypes.data % 64) == (where, 0)
