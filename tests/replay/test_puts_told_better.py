"""What a buffer takes from other libraries, and what it says where it cannot."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from really import ReplayBuffer
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError


def rows(count: int, start: int = 0) -> dict[str, Any]:
    numbers = np.arange(start, start + count, dtype=np.float32)
    return {"state": np.stack([numbers, -numbers], axis=1), "reward": numbers}


def held(buffer: ReplayBuffer) -> dict[str, Any]:
    return {key: column.tolist() for key, column in buffer.take(np.arange(len(buffer))).items()}


def as_lists(data: dict[str, Any]) -> dict[str, Any]:
    return {key: column.tolist() for key, column in data.items()}


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_of_pandas_and_polars_are_put(frame: Any) -> None:
    buffer = ReplayBuffer(10, spec={"state": (np.float32, 2), "reward": np.float32})
    buffer.put(frame(as_lists(rows(3))))
    assert held(buffer) == as_lists(rows(3))


def test_an_index_of_pandas_is_no_column() -> None:
    buffer = ReplayBuffer(10)
    buffer.put(pd.DataFrame({"reward": [1.0, 2.0, 3.0]})[::2])
    assert held(buffer) == {"reward": [1.0, 3.0]}


def test_a_frame_that_arrow_cannot_hold_is_told() -> None:
    with pytest.raises(InvalidTypeError, match=r"^put: expected columns of numbers, or of lists of one length, got D"):
        ReplayBuffer(10).put(pd.DataFrame({"state": [object(), object()]}))


def test_a_buffer_is_put_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("really.replay.appending.PIECE", 24)
    source, buffer = ReplayBuffer(7), ReplayBuffer(100, ("reward",))
    source.put(rows(9))
    buffer.put(rows(1, 50))
    buffer.put(source)
    assert held(buffer) == {"reward": [50, *range(2, 9)]}


def test_what_a_buffer_does_not_take_of_another_is_told() -> None:
    buffer, source = ReplayBuffer(10), ReplayBuffer(10)
    with pytest.raises(
        EmptyBufferError, match=r"^put: expected a buffer whose columns are known, got one that has nev"
    ):
        buffer.put(source)
    source.put({"state": np.zeros((2, 3))})
    buffer.put(rows(2))
    with pytest.raises(InvalidValueError, match=r"^put: expected key 'reward', got 'state'"):
        buffer.put(source)
    with pytest.raises(InvalidValueError, match=r"^put: expected rows, or another buffer, got this buffer itself$"):
        buffer.put(buffer)
    assert held(buffer) == as_lists(rows(2))
    with pytest.raises(InvalidTypeError, match=r"a frame of pandas or Polars, or a buffer, got int$"):
        buffer.put(3)


def test_lists_of_one_length_are_rows(tmp_path: Path) -> None:
    nested = pa.table(
        {"state": [[[1.0, 2.0], [3.0, 4.0]]] * 3, "large": pa.array([[1], [2], [3]], pa.large_list(pa.int32()))}
    )
    pq.write_table(nested, tmp_path / "lists.parquet")
    buffer = ReplayBuffer.from_parquet(tmp_path / "lists.parquet")
    assert held(buffer) == {"state": [[[1.0, 2.0], [3.0, 4.0]]] * 3, "large": [[1], [2], [3]]}
    assert held(ReplayBuffer.from_arrow(nested.slice(1, 1)))["large"] == [[2]]


def test_lists_of_several_lengths_are_told(tmp_path: Path) -> None:
    ragged = pa.table({"state": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]])})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    told = r"ragged.parquet: put: key 'state': expected lists of one length, got 2 at row 0 and 1 at row 2$"
    with pytest.raises(InvalidValueError, match=told):
        ReplayBuffer.from_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(InvalidValueError, match=r"expected rows that tell the length of their lists, got none of li"):
        ReplayBuffer.from_arrow(ragged.slice(0, 0))


def test_spaces_are_specs() -> None:
    parts = gymnasium.spaces.Dict(place=gymnasium.spaces.Box(0, 1, (2,)), room=gymnasium.spaces.Discrete(5))
    buffer = ReplayBuffer(4, spec={"state": parts, "action": gymnasium.spaces.MultiBinary(3), "reward": np.float32})
    assert {key: (str(dtype), shape) for key, (dtype, shape) in buffer.spec.items()} == {
        "state.place": ("float32", (2,)),
        "state.room": ("int64", ()),
        "action": ("int8", (3,)),
        "reward": ("float32", ()),
    }


class Tensor:
    """Fails as tensors of PyTorch do, which the tests in tests/frameworks have themselves."""

    def __init__(self, dtype: str, requires_grad: bool) -> None:
        self.dtype, self.requires_grad = dtype, requires_grad

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array")


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (Tensor("torch.float32", True), "a tensor without a gradient, got one that requires it; give tensor.detach()"),
        (Tensor("torch.bfloat16", False), "a dtype that NumPy has, got torch.bfloat16; give tensor.float()"),
    ],
)
def test_tensors_that_make_no_array_are_told(tensor: Tensor, told: str) -> None:
    for given in (tensor, [tensor, tensor]):
        with pytest.raises(InvalidValueError) as error:
            ReplayBuffer(4).put({"state": given})
        assert str(error.value).startswith("put: key 'state': expected a tensor")
        assert str(error.value).endswith(told)


def test_a_negative_index_is_told() -> None:
    buffer = ReplayBuffer(4)
    buffer.put(rows(3))
    told = r"from 0 to 2, got -1, one of 1; indices are ages from the oldest row on, and 2 is the newest$"
    with pytest.raises(InvalidValueError, match=told):
        buffer.take([0, -1])


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        (slice(-2, None), r"got slice\(-2, None, None\); numpy.arange makes indices of a range$"),
        ([True, False, True], r"got bool of shape \[3\]; numpy.flatnonzero makes indices of a mask$"),
        ([1.5], r"got float64 of shape \[1\]$"),
        (1, r"got int64 of shape \[\]$"),
    ],
)
def test_what_is_no_list_of_indices_is_told(indices: Any, told: str) -> None:
    buffer = ReplayBuffer(4)
    buffer.put(rows(3))
    with pytest.raises(InvalidTypeError, match=r"^take: expected indices \[n\] or \[k, n\] of integers, " + told):
        buffer.take(indices)


def test_a_frame_that_is_not_computed_yet_is_told() -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(InvalidTypeError, match=r"^put: .*, got LazyFrame; collect\(\) makes a frame of it$"):
        ReplayBuffer(4).put(polars.LazyFrame({"reward": [1.0]}))


def test_a_stream_of_arrow_is_told() -> None:
    buffer = ReplayBuffer(4)
    buffer.put(rows(3))
    with pytest.raises(InvalidTypeError, match=r"got RecordBatchReader; read_all\(\) makes a table of it$"):
        buffer.put(buffer.to_arrow())


DRAWS: dict[str, Callable[[ReplayBuffer], Any]] = {
    "sample": lambda buffer: buffer.sample(4),
    "sample_indices": lambda buffer: buffer.sample_indices(4),
    "epochs": lambda buffer: buffer.epochs(4),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", DRAWS)
def test_two_forked_processes_that_draw_the_same_rows_are_told(what: str) -> None:
    buffer = ReplayBuffer(100, seed=1)
    buffer.put({"reward": np.arange(100.0)})

    def told_in_child() -> list[str]:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks among threads
            child = os.fork()
        if child == 0:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                buffer.epochs(4, seed=1)  # a seed of its own: the same rows are meant
                DRAWS[what](buffer)
                DRAWS[what](buffer)
            os.write(writing, "\n".join(str(each.message) for each in caught).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as file:
            return file.read().splitlines()

    assert told_in_child() == []  # one process may go on for another
    (told,) = told_in_child()
    assert told.startswith(
        f"{what}: expected one process that draws, or generators of their own, got a process that was f"
    )
