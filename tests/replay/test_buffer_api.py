"""The public methods of ReplayBuffer: schema, first in first out, batches."""

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import EmptyBufferError, InvalidValueError
from really.replay.arguments import bit_generator


def transitions(first, num):
    ids = np.arange(first, first + num)
    return {
        "state": np.repeat(ids, 4).reshape(num, 4).astype(np.float32),
        "action": ids.astype(np.int64),
        "reward": ids.astype(np.float32),
        "state_new": np.repeat(ids, 4).reshape(num, 4).astype(np.float32) + 1,
        "terminal": (ids % 2).astype(np.float32),
    }


def held_ids(buffer):
    return buffer.take(np.arange(len(buffer)))["action"].tolist()


@pytest.mark.parametrize("chunk", [1, 3, 7, 10, 25])
def test_put_keeps_the_newest_rows_in_order(chunk):
    buffer = ReplayBuffer(10)
    for first in range(0, 50, chunk):
        buffer.put(transitions(first, chunk))
        newest = range(first + chunk)[-10:]
        assert held_ids(buffer) == list(newest)


def test_first_put_fixes_the_schema_of_python_numbers():
    buffer = ReplayBuffer(4)
    buffer.put({"state": [[0.5, 1.5]], "action": [1], "done": [True]})
    assert buffer.spec == {
        "state": (np.dtype(np.float32), (2,)),
        "action": (np.dtype(np.int64), ()),
        "done": (np.dtype(np.bool_), ()),
    }


def test_one_transition_without_row_axes():
    buffer = ReplayBuffer(4)
    buffer.put({"state": np.zeros(3, np.float32), "action": 2, "reward": 1.5})
    buffer.put({"state": np.ones(3, np.float32), "action": np.int64(3), "reward": np.float64(2.5)})
    assert len(buffer) == 2
    assert buffer.take([1])["reward"].tolist() == [2.5]


def test_aliases_and_opposites():
    buffer = ReplayBuffer(4, ["state_new", "terminal"])
    buffer.put({"new_state": [[1.0]], "not_done": [0.0], "ignored": "anything"})
    assert buffer.take([0])["terminal"].tolist() == [1.0]
    assert buffer.take([0])["state_new"].tolist() == [[1.0]]


def test_batches_are_the_callers_own():
    buffer = ReplayBuffer(100, seed=1)
    buffer.put(transitions(0, 100))
    batch = buffer.sample(64)
    before = {key: array.copy() for key, array in batch.items()}
    for array in batch.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0
    buffer.put(transitions(1000, 100))
    for _ in range(100):
        buffer.sample(64)
    assert all(np.array_equal(before[key], batch[key]) for key in batch)


def test_take_of_sampled_indices_is_the_sample():
    one, other = (ReplayBuffer(50, seed=7) for _ in range(2))
    for buffer in (one, other):
        buffer.put(transitions(0, 80))
    for n in (5, (3, 4)):
        for replace in (True, False):
            batch = one.sample(n, replace=replace)
            taken = other.take(other.sample_indices(n, replace=replace))
            assert all(np.array_equal(batch[key], taken[key]) for key in batch)


def test_sample_without_replacement_draws_each_row_once():
    buffer = ReplayBuffer(30, seed=3)
    buffer.put(transitions(0, 30))
    batch = buffer.sample((4, 30), replace=False)
    assert batch["state"].shape == (4, 30, 4)
    assert np.array_equal(np.sort(batch["action"], axis=1), np.tile(np.arange(30), (4, 1)))


def test_sample_from_an_empty_buffer():
    with pytest.raises(EmptyBufferError, match="sample: expected a buffer that holds rows"):
        ReplayBuffer(5).sample(1)


def test_same_seed_same_batches_and_state():
    one, other = (ReplayBuffer(50, seed=7) for _ in range(2))
    for buffer in (one, other):
        buffer.put(transitions(0, 50))
    state = one.state_dict()
    first = one.sample(9)["action"]
    assert np.array_equal(first, other.sample(9)["action"])
    one.load_state_dict(state)
    assert np.array_equal(first, one.sample(9)["action"])


def test_buffers_without_a_seed_start_from_different_numbers():
    states = [ReplayBuffer(50, alpha=0.6).state_dict() for _ in range(3)]
    states += [state.pop("priorities") for state in states]
    assert len({str(state) for state in states}) == 6
    given = [ReplayBuffer(50, seed=np.random.Generator(bit_generator(None))).state_dict() for _ in range(2)]
    assert str(given[0]) != str(given[1])


@pytest.mark.parametrize("change", [{"bit_generator": "PCG64"}, {"priorities": {}}, {"priorities": "x"}])
def test_a_state_that_cannot_be_set_leaves_both_generators_alone(change):
    buffer = ReplayBuffer(50, alpha=0.6, seed=7)
    buffer.put(transitions(0, 50))
    other = ReplayBuffer(50, alpha=0.6, seed=8).state_dict()
    before = repr(buffer.state_dict())
    with pytest.raises(InvalidValueError, match="state: expected what a buffer's state_dict gave"):
        buffer.load_state_dict(other | change)
    assert repr(buffer.state_dict()) == before
