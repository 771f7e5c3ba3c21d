"""`buffer.dataset`: static shapes, the batches of `sample` in order, the transformations of `tf.data`."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.errors import ClosedError
from tests.replay.test_batches import make, manager_of, prioritized, rows

DTYPES = ["?", "i1", "i8", "u1", "u2", "u8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(("n", "lead"), [(33, (33,)), ((3, 8), (3, 8))])
def test_one_batch_a_call_is_what_sample_gives(prefetch: int, n: Any, lead: tuple[int, ...]) -> None:
    one, other = make(), make()
    dataset = one.dataset(n, prefetch, batches_per_call=1)
    assert dataset.element_spec == {
        "x": tf.TensorSpec((*lead, 16), tf.float32),
        "id": tf.TensorSpec(lead, tf.int64),
    }
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for got, _ in zip(dataset, range(20), strict=False):
        expected = other.sample(n)
        assert all(np.array_equal(got[key], expected[key]) for key in expected)


@pytest.mark.parametrize("n", [32, (2, 8)])
@pytest.mark.parametrize("replace", [True, False])
def test_several_batches_a_call_are_one_sample_of_that_many(n: Any, replace: bool) -> None:
    one, other = make(40), make(40)
    got = [batch["id"].numpy() for batch in one.dataset(n, replace=replace, batches_per_call=4).take(12)]
    size = (4, 32) if n == 32 else (8, 8)
    for call in range(3):
        expected = other.sample(size, replace=replace)["id"].ravel()
        assert np.array_equal(np.ravel(got[4 * call : 4 * call + 4]), expected)


def test_two_runs_are_alike() -> None:
    runs = [[batch["id"].numpy().tolist() for batch in make().dataset(8).take(50)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({str(ids) for ids in runs[0]}) == 50


def test_no_more_is_drawn_ahead_than_asked_for() -> None:
    one, other = make(), make()
    iterator = iter(one.dataset(8, prefetch=0, batches_per_call=1))
    for _ in range(5):
        next(iterator)
        other.sample(8)
    assert np.array_equal(one.sample(50)["id"], other.sample(50)["id"])
    one.put(rows(5000, 1000))
    assert (next(iterator)["id"].numpy() >= 5000).all(), "nor is anything stale"


def test_all_dtypes_that_tensorflow_has() -> None:
    buffer = ReplayBuffer(100, spec={dtype: (dtype, (2,)) for dtype in DTYPES}, seed=0)
    buffer.put({dtype: np.arange(200).reshape(100, 2).astype(dtype) for dtype in DTYPES})
    batch = next(iter(buffer.dataset(7)))
    assert {key: tensor.numpy().dtype for key, tensor in batch.items()} == {key: np.dtype(key) for key in DTYPES}
    assert np.array_equal(batch["c16"].numpy().real, batch["f8"])


def test_it_feeds_a_compiled_loop() -> None:
    buffer = make()

    @tf.function
    def total(iterator: Any, steps: tf.Tensor) -> tf.Tensor:
        ids = tf.constant(0, tf.int64)
        for _ in tf.range(steps):
            batch = next(iterator)
            assert batch["x"].shape == (32, 16), "static while it is traced"
            ids += tf.reduce_sum(batch["id"])
        return ids

    expected = make().sample((16, 32))["id"].sum()
    assert int(total(iter(buffer.dataset(32, batches_per_call=16)), tf.constant(16))) == expected


def test_it_feeds_fit() -> None:
    buffer, model = make(), keras.Sequential([keras.Input((16,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    pairs = buffer.dataset(32).map(lambda batch: (batch["x"], batch["id"][:, None]))
    history = model.fit(pairs, steps_per_epoch=20, epochs=2, verbose=0, shuffle=False)
    assert len(history.history["loss"]) == 2


def test_a_dataset_holds_its_buffer_and_lets_it_go() -> None:
    batches = iter(make().dataset(8))
    gc.collect()
    assert next(batches)["id"].shape == (8,)
    buffer = make()
    gone, dataset = weakref.ref(buffer), buffer.dataset(8)
    next(iter(dataset))
    del buffer, dataset
    gc.collect()
    assert gone() is None


def test_a_data_set_of_a_closed_buffer_says_so(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, path=tmp_path / "b")
    buffer.put({"reward": 1.0})
    buffer.close()
    with pytest.raises(ClosedError, match=r"dataset: .*expected an open buffer"):
        buffer.dataset(4)


def test_an_empty_buffer_is_said_by_tensorflows_error() -> None:
    with pytest.raises(EmptyBufferError, match="dataset: expected a buffer whose schema is known"):
        ReplayBuffer(10).dataset(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="EmptyBufferError: sample: expected a buffer that holds"):
        next(iter(make(0).dataset(4)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, InvalidValueError, "n: expected an integer from 1"),
        ({"n": [3, 4]}, InvalidTypeError, "n: expected an integer >= 1"),
        ({"prefetch": -1}, InvalidValueError, "prefetch: expected an integer >= 0, got -1"),
        ({"batches_per_call": 0}, InvalidValueError, "batches_per_call: expected an integer from 1"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().dataset(**{"n": 4, **arguments})


def test_text_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="key 'name': expected bool, an integer"):
        ReplayBuffer(10, spec={"name": "U3"}).dataset(4)


def test_a_managers_dataset_counts_what_is_drawn() -> None:
    with manager_of() as manager:
        manager.collect()
        with manager.collect_in_background(min_rows=100) as background:
            for batch in manager.dataset(32, prefetch=0, batches_per_call=2).take(4):
                assert np.array_equal(batch["state_new"], batch["state"].numpy() + 1)
            assert background.info()["background_sampled"] == 128


@pytest.mark.parametrize("options", [{"n_step": 3, "gamma": 0.9}, {}])
def test_several_steps_and_draws_by_priority_bring_their_columns(options: dict[str, Any]) -> None:
    one, other = prioritized(**options), prioritized(**options)
    dataset = one.dataset(16, batches_per_call=1, beta=0.6)
    assert dataset.element_spec["weight"] == tf.TensorSpec((16,), tf.float32)
    assert dataset.element_spec["index"] == tf.TensorSpec((16,), tf.int64)
    assert ("discount" in dataset.element_spec) == bool(options)
    for got, _ in zip(dataset, range(4), strict=False):
        expected = other.sample(16, beta=0.6)
        assert got.keys() == expected.keys()
        assert all(np.array_equal(got[key], expected[key]) for key in expected)


def test_options_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="beta: expected none for a buffer that draws uniformly"):
        make().dataset(4, beta=0.5)
    with pytest.raises(InvalidTypeError, match=r"beta: expected a number .* batches\(\) takes a function"):
        prioritized().dataset(4, beta=lambda number: 0.5)
    with pytest.raises(InvalidValueError, match="replace: expected True with alpha"):
        prioritized().dataset(4, replace=False)
