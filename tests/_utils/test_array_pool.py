"""The pool of large arrays: it reuses memory once nothing refers to it, and not before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from really._utils.array_pool import PATIENCE, ArrayPool

SHAPE = (1000, 300)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_reused_once_nothing_refers_to_it() -> None:
    pool = ArrayPool()
    first = pool.empty(SHAPE, np.float64)
    assert (first.shape, first.dtype, first.flags.writeable) == (SHAPE, np.float64, True)
    where = address(first)
    second = pool.empty(SHAPE, np.float64)
    assert address(second) != where
    del first
    assert address(pool.empty((300, 1000, 2), np.float32)) == where


@pytest.mark.parametrize("holder", [lambda a: a[3:5], lambda a: pa.array(a.reshape(-1)), memoryview, np.asarray])
def test_a_reference_to_an_array_keeps_its_memory(holder: object) -> None:
    pool = ArrayPool()
    array = pool.empty(SHAPE, np.float64)
    where, held = address(array), holder(array)
    del array
    others = [pool.empty(SHAPE, np.float64) for _ in range(3)]
    assert where not in map(address, others)
    del held
    assert address(pool.empty(SHAPE, np.float64)) == where


def test_small_arrays_do_not_come_from_the_pool() -> None:
    pool = ArrayPool()
    assert pool.empty((3,), np.int64).shape == (3,)
    assert pool.empty((0, 5), np.float32).shape == (0, 5)
    assert not pool._blocks


def test_a_block_that_is_much_too_large_is_not_used_and_later_freed() -> None:
    pool = ArrayPool()
    large = pool.empty((64 << 20,), np.uint8)
    where = address(large)
    del large
    small = [pool.empty((2 << 20,), np.uint8) for _ in range(PATIENCE)]
    assert where not in map(address, small)
    assert max(block.nbytes for _, block in pool._blocks) == 2 << 20
