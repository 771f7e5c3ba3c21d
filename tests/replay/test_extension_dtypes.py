"""Columns of ml_dtypes (bfloat16, float8, int4): they come back from every file as they were put, or are refused."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from really import ReplayBuffer
from really.data.schema import dtype_from_json, dtype_to_json
from really.errors import InvalidTypeError, InvalidValueError

DTYPES = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4]
RNG = np.random.default_rng(0)
# Rows of 2 kB and more share frames.
FRAMES = RNG.integers(0, 2**16, (9, 2048), np.uint16)


def rows(dtype: Any) -> dict[str, np.ndarray]:
    """Eight rows of random bits: numbers, a shape, and frames that two columns share."""
    frames = (FRAMES % 8).astype(np.float32).astype(dtype)
    numbers = RNG.integers(-8, 8, 8).astype(np.float32).astype(dtype)
    return {
        "number": numbers,
        "shaped": np.stack([numbers, numbers], 1),
        "state": frames[:-1],
        "state_new": frames[1:],
    }


def reopened(buffer: ReplayBuffer, folder: Path) -> ReplayBuffer:
    with ReplayBuffer(10, path=folder / "disk") as disk:
        disk.put(buffer.take(range(len(buffer))))
    return ReplayBuffer.open(folder / "disk")


def parquet(buffer: ReplayBuffer, folder: Path) -> ReplayBuffer:
    buffer.to_parquet(folder / "rows")
    return ReplayBuffer.from_parquet(folder / "rows")


def saved(buffer: ReplayBuffer, folder: Path) -> ReplayBuffer:
    buffer.save(folder / "file")
    return ReplayBuffer.load(folder / "file")


WAYS: list[Callable[[ReplayBuffer, Path], ReplayBuffer]] = [
    saved,
    parquet,
    reopened,
    lambda buffer, _: ReplayBuffer.from_arrow(buffer.to_arrow(), 10),
    lambda buffer, _: pickle.loads(pickle.dumps(buffer)),
    lambda buffer, _: pickle.loads(pickle.dumps(buffer, 2)),
]


@pytest.mark.parametrize("way", WAYS, ids=["save", "Parquet", "folder", "Arrow", "pickle", "pickle 2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_rows_come_back_as_they_were(
    dtype: Any, way: Callable[[ReplayBuffer, Path], ReplayBuffer], tmp_path: Path
) -> None:
    given = rows(dtype)
    buffer = ReplayBuffer(10)
    buffer.put(given)
    back = way(buffer, tmp_path)
    assert back.spec == buffer.spec
    for key, column in back.take(range(8)).items():
        assert column.dtype == dtype
        np.testing.assert_array_equal(column.view(np.uint8), given[key].view(np.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("given", [np.float32, np.float16, np.int64, "V2"])
def test_rows_that_could_lose_their_values_are_refused(dtype: Any, given: Any) -> None:
    buffer = ReplayBuffer(10, spec={"x": dtype})
    with pytest.raises(InvalidTypeError, match=r"put: key 'x': expected .* or what casts to it, got"):
        buffer.put({"x": np.ones(3, given)})
    other = ReplayBuffer(10, spec={"x": given})
    if given != np.float32:
        with pytest.raises(InvalidTypeError, match=r"put: key 'x': expected .* or what casts to it, got"):
            other.put({"x": np.ones(3, np.float32).astype(ml_dtypes.bfloat16)})


@pytest.mark.parametrize("dtype", [np.dtype(ml_dtypes.bfloat16).newbyteorder(), [("field", ml_dtypes.int4)]])
def test_a_dtype_that_files_cannot_name_is_refused(dtype: Any) -> None:
    with pytest.raises(InvalidTypeError, match="key 'x': expected a dtype of NumPy, or one of ml_dtypes in native"):
        ReplayBuffer(10, spec={"x": dtype})


def test_a_dtype_of_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    description = dtype_to_json(np.dtype(ml_dtypes.bfloat16))
    assert description == "ml_dtypes.bfloat16"
    with pytest.raises(InvalidValueError, match=r"expected ml_dtypes to have 'ml_dtypes.float3', but"):
        dtype_from_json("ml_dtypes.float3")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidValueError, match=r"expected ml_dtypes to have 'ml_dtypes.bfloat16', but"):
        dtype_from_json(description)
