"""Batches in other libraries through DLPack: no copy, and no later batch reuses their memory."""

import gc

import numpy as np
import pytest

from really import ReplayBuffer


@pytest.fixture
def buffer():
    buffer = ReplayBuffer(1000, spec={"x": (np.float32, (16,)), "y": np.int64, "u": np.uint8}, seed=1)
    ids = np.arange(1000)
    buffer.put(
        {"x": np.repeat(ids, 16).reshape(-1, 16).astype(np.float32), "y": ids, "u": (ids % 256).astype(np.uint8)}
    )
    return buffer


def tensorflow_constant():
    return pytest.importorskip("tensorflow").constant


def tensorflow_dlpack():
    tf = pytest.importorskip("tensorflow")
    return lambda array: tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def tensorflow_tensor_of_dict():
    tf = pytest.importorskip("tensorflow")
    return lambda array: tf.nest.map_structure(tf.convert_to_tensor, {"x": array})["x"]


def jax_dlpack():
    return pytest.importorskip("jax").dlpack.from_dlpack


def jax_array():
    return pytest.importorskip("jax").numpy.asarray


def torch_from_numpy():
    return pytest.importorskip("torch").from_numpy


def torch_dlpack():
    return pytest.importorskip("torch").from_dlpack


def numpy_dlpack():
    return np.from_dlpack


TAKERS = [
    tensorflow_constant,
    tensorflow_dlpack,
    tensorflow_tensor_of_dict,
    jax_dlpack,
    jax_array,
    torch_from_numpy,
    torch_dlpack,
    numpy_dlpack,
]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("key", ["x", "y", "u"])
def test_a_tensor_keeps_its_memory_when_the_array_is_dropped(buffer, taker, key):
    take = taker()
    if key == "y" and taker in (jax_array, jax_dlpack):
        pytest.skip("JAX is made for 32 bits")
    batch = buffer.sample(256)
    before = batch[key].copy()
    tensor = take(batch[key])
    del batch
    gc.collect()
    for _ in range(1000):
        other = buffer.sample(256)
        for column in other.values():
            column.fill(0)
        del other
    assert np.array_equal(np.asarray(tensor), before)


def test_dlpack_shares_the_memory(buffer):
    batch = buffer.sample(8)
    view = np.from_dlpack(batch["x"])
    batch["x"][3, 5] = 77
    assert view[3, 5] == 77


def test_tensors_go_back_in(buffer):
    tf = pytest.importorskip("tensorflow")
    batch = {key: tf.constant(column) for key, column in buffer.sample(10).items()}
    buffer.put(batch)
    newest = buffer.take(np.arange(990, 1000))
    assert all(np.array_equal(newest[key], batch[key].numpy()) for key in batch)
