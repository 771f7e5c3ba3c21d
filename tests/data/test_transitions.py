"""Columns of transitions: their schema, and their conversion to an Arrow record batch and back."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces

from really._utils.array_pool import ArrayPool
from really.data.record_batches import from_record_batch, to_record_batch
from really.data.spaces import observation_leaves
from really.data.transitions import check_returns, concatenate, schema
from really.errors import InvalidValueError


def some_columns(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(size=(rows, 4)).astype(np.float32),
        "image": rng.integers(0, 255, (rows, 3, 2, 5), dtype=np.uint8),
        "half": rng.normal(size=rows).astype(np.float16),
        "flag": rng.random(rows) < 0.5,
        "flags": rng.random((rows, 3)) < 0.5,
        "action": rng.integers(0, 9, rows),
    }


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_array_equal(got[name], values)


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
def test_columns_survive_arrow_with_dtype_and_shape(rows: int) -> None:
    columns = some_columns(rows)
    assert_same(from_record_batch(to_record_batch(columns)), columns)


def test_columns_are_views_both_ways_but_for_booleans() -> None:
    columns = some_columns(5)
    back = from_record_batch(to_record_batch(columns))
    for name in ("state", "image", "half", "action"):
        assert np.shares_memory(back[name], columns[name])
        assert not back[name].flags.writeable


def test_a_sliced_batch_gives_its_own_rows() -> None:
    columns = some_columns(20)
    part = from_record_batch(to_record_batch(columns).slice(7, 9))
    assert_same(part, {name: values[7:16] for name, values in columns.items()})


def test_images_are_fixed_shape_tensors_that_other_programs_read(tmp_path: object) -> None:
    columns = some_columns(6)
    batch = to_record_batch(columns)
    assert isinstance(batch.schema.field("image").type, pa.FixedShapeTensorType)
    path = f"{tmp_path}/rows.arrow"
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    read = pa.ipc.open_file(path).read_all().column("image").combine_chunks()
    np.testing.assert_array_equal(read.to_numpy_ndarray(), columns["image"])


def test_batches_are_pickled_out_of_band() -> None:
    buffers: list[pickle.PickleBuffer] = []
    batch = to_record_batch({"state": np.zeros((1000, 64), np.float32)})
    stream = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 2000
    assert sum(memoryview(buffer).nbytes for buffer in buffers) == 256_000


def test_concatenate_gives_arrays_that_the_caller_owns() -> None:
    leaves = observation_leaves(spaces.Box(-1, 1, (3,), np.float32))
    columns = schema(leaves, (), np.dtype(np.int64))
    parts = [
        {name: np.full((rows, *column.shape), rows, column.dtype) for name, column in columns.items()}
        for rows in (2, 3)
    ]
    joined = concatenate(columns, parts, ArrayPool())
    for name, column in columns.items():
        rows = joined[name]
        assert rows.dtype == column.dtype
        assert rows.flags.writeable
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows.reshape(5, -1)[:, 0], [2, 2, 3, 3, 3])


def test_the_schema_has_one_column_per_leaf_and_the_documented_dtypes() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (4, 4), np.uint8), "at": spaces.Discrete(3)})
    columns = {
        name: (column.shape, column.dtype)
        for name, column in schema(observation_leaves(space), (2,), np.dtype(np.float32), ["agent", "log_prob"]).items()
    }
    number = ((), np.dtype(np.float32))
    assert columns == {
        "state.at": ((), np.dtype(np.int64)),
        "state.image": ((4, 4), np.dtype(np.uint8)),
        "action": ((2,), np.dtype(np.float32)),
        "reward": number,
        "state_new.at": ((), np.dtype(np.int64)),
        "state_new.image": ((4, 4), np.dtype(np.uint8)),
        "not_done": number,
        "terminal": number,
        "agent": ((), np.dtype(np.int32)),
        "log_prob": number,
    }


def test_unknown_returns_are_refused_with_the_supported_ones() -> None:
    with pytest.raises(InvalidValueError, match=r"returns: expected one of .*'monte_carlo'.*got 'montecarlo'. Did"):
        check_returns(["log_prob", "montecarlo"])
    assert check_returns(["log_prob", "agent", "log_prob"]) == ("log_prob", "agent")
