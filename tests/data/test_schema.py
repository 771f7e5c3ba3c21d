"""The schema of rows: column specs, and dtypes in JSON."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from numpy.typing import DTypeLike

from really.data.schema import ColumnSpec, dtype_from_json, row_nbytes, spec_of_columns
from really.replay import ReplayBuffer


def test_a_column_spec_equals_the_plain_tuple_of_dtype_and_shape() -> None:
    column = ColumnSpec(np.dtype(np.float32), (3, 2))
    assert column == (np.dtype(np.float32), (3, 2))
    assert column.nbytes == 24
    assert json.dumps([column.shape]) == "[[3, 2]]"


def test_columns_give_their_schema() -> None:
    spec = spec_of_columns({"state": np.zeros((5, 3, 2), np.float64), "reward": np.zeros(5, np.float32)})
    assert spec == {"state": (np.dtype(np.float64), (3, 2)), "reward": (np.dtype(np.float32), ())}
    assert row_nbytes(spec) == 52


def test_a_pickled_buffer_names_no_class_of_the_schema() -> None:
    buffer = ReplayBuffer(4)
    buffer.put({"state": np.zeros((2, 3)), "reward": np.zeros(2)})
    pickled = pickle.dumps(buffer)
    assert b"ColumnSpec" not in pickled
    assert pickle.loads(pickled).spec == buffer.spec


@pytest.mark.parametrize("dtype", ["f4", ">i8", "M8[ms]", "S7", [("x", "f4", (2,)), ("y", [("z", "i1")])]])
def test_a_dtype_comes_back_from_json(dtype: DTypeLike) -> None:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    assert dtype_from_json(json.loads(json.dumps(description))) == np.dtype(dtype)
