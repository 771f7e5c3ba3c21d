"""Rows on the wire: each frame once, compressed where that pays, and the same rows again at the other end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from really.data import frames
from really.data.frames import FrameColumn
from really.data.packed import Packed
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


@pytest.mark.parametrize("axis", [0, 2])
def test_frames_of_several_shards_are_written_to_their_places(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "GROUP", 3000)
    rng = np.random.default_rng(0)
    column = FrameColumn(rng.integers(0, 255, (9, 16, 16), np.uint8), rng.integers(0, 9, (10, 4), np.int32), axis)
    positions = rng.permutation(20)[:10]
    found = np.zeros((20, *column.shape[1:]), np.uint8)
    column.write_at(found, positions)
    expected = np.zeros_like(found)
    expected[positions] = column
    np.testing.assert_array_equal(found, expected)


def test_memory_of_a_batch_is_used_again_once_nobody_has_it() -> None:
    memory = BatchMemory()
    first = memory.empty((1 << 20, 2), np.dtype(np.uint8))
    view, where = first[5:], first.ctypes.data
    del first
    assert memory.empty((1 << 20, 2), np.dtype(np.uint8)).ctypes.data != where
    del view
    again = memory.empty((1 << 20, 2), np.dtype(np.uint8))
    assert (again.ctypes.data, again.ctypes.data % 64) == (where, 0)
