"""Buffers whose values encode the row number, in every kind of dtype, for the tests of files and formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from really import ReplayBuffer

CAPACITY = 10
FILLS = {"empty": 0, "one row": 1, "one short of full": 9, "full": 10, "one over": 11, "wrapped twice": 27}


def rows(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows `first` to `first + num`, with one column per kind of dtype."""
    at = np.arange(first, first + num)
    return {
        "reward": at.astype(np.float32),
        "half": at.astype(np.float16),
        "halves": np.repeat(at[:, None], 2, axis=1).astype(np.float16),
        "flag": at % 3 == 0,
        "flags": np.repeat(at[:, None] % 2 == 0, 5, axis=1),
        "state": np.repeat(at[:, None], 4, axis=1).astype(np.float32),
        "image": np.repeat(at, 24).reshape(num, 2, 3, 4).astype(np.uint8),
        "wave": (at + 2j * at).astype(np.complex64),
        "waves": np.repeat((at - 1j * at)[:, None], 3, axis=1).astype(np.complex128),
        "name": at.astype("S7"),
        "text": at.astype("U3"),
        "moment": at.astype("datetime64[us]"),
        "days": at.astype("timedelta64[D]"),
        "long": at.astype(np.longdouble),
        "nothing": np.zeros((num, 0, 3), np.float32),
        "pair": np.array([(k, (k, k)) for k in at], [("a", np.int32), ("b", np.float64, (2,))]),
    }


def filled(num: int, capacity: int = CAPACITY, seed: int = 3) -> ReplayBuffer:
    """A buffer with rows 0 to `num`, put two at a time."""
    buffer = ReplayBuffer(capacity, seed=seed)
    buffer.put(rows(0, 0))
    for first in range(0, num, 2):
        buffer.put(rows(first, min(2, num - first)))
    return buffer


def assert_same_rows(one: ReplayBuffer, other: ReplayBuffer) -> None:
    """Asserts that schema and rows are equal, bit for bit and in order."""
    assert one.spec == other.spec
    assert len(one) == len(other)
    if len(one):
        ages = np.arange(len(one))
        expected, got = one.take(ages), other.take(ages)
        assert {key: got[key].tobytes() for key in got} == {key: expected[key].tobytes() for key in expected}


def numbered(num: int, capacity: int, **options: Any) -> ReplayBuffer:
    """A buffer with rows 0 to `num`: a number, and 64 floats that repeat it."""
    buffer = ReplayBuffer(capacity, seed=0, **options)
    buffer.put(wide(0, num))
    return buffer


def wide(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows in which every value is the row number."""
    number = np.arange(first, first + num)
    return {"number": number, "copies": np.repeat(number[:, None], 64, axis=1).astype(np.float32)}
