"""Sharded buffers: batches are those of one ReplayBuffer, bit for bit, whatever the number of shards."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import numpy as np
import pytest

from really import (
    ClosedError,
    EmptyBufferError,
    InvalidTypeError,
    InvalidValueError,
    Mixture,
    NotEnoughMemoryError,
    ReplayBuffer,
)
from really.collectors.rate_limiter import RateLimiter
from really.replay.batches import Batches
from really.service import ShardedBuffer
from really.service.allotment import Allotment
from really.service.connected import ConnectedBuffer

CAPACITY = 60
SIZES = (7, 1, 25, 60, 3, 90, 0, 13, 13, 13, 40)
"""Rows of each put: the ring wraps around, and one put has more rows than fit."""


def rows(first: int, num: int) -> dict[str, np.ndarray]:
    ids = np.arange(first, first + num)
    return {
        "id": ids,
        "reward": np.sin(ids).astype(np.float32),
        "name": ids.astype("S6"),
        "state": np.repeat(ids[:, None], 3, axis=1).astype(np.float32),
        "nothing": np.zeros((num, 0, 2)),
    }


def episodes(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows of episodes of six steps, whole or not in a put."""
    ids = np.arange(first, first + num)
    end = (ids % 6 == 5).astype(np.float32)
    terminal = end * (ids % 12 == 11)
    return {"id": ids, "reward": np.cos(ids).astype(np.float32), "episode_end": end, "terminal": terminal,
            "state_new": ids * 10}  # fmt: skip


def stacks(first: int, num: int) -> dict[str, np.ndarray]:
    """Stacks of frames that share frames, 2 kB a row."""
    ids = np.arange(first, first + num)
    frames = (ids[:, None] + np.arange(5)) % 251
    whole = np.broadcast_to(frames[:, :, None, None], (num, 5, 16, 32)).astype(np.uint8)
    return {"id": ids, "state": whole[:, :4].copy(), "state_new": whole[:, 1:].copy()}


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "uniform": (rows, {}),
    "priorities": (rows, {"alpha": 0.6}),
    "newest": (rows, {"sampler": ("newest", {"num_rows": 20})}),
    "half-life": (rows, {"sampler": ("half_life", {"half_life": 15})}),
    "recent experience": (rows, {"sampler": ("ere", {"updates": 5, "least": 10})}),
    "n steps": (episodes, {"n_step": 3, "gamma": 0.9}),
    "n steps, priorities": (episodes, {"n_step": 4, "gamma": 0.5, "alpha": 0.7}),
    "frames": (stacks, {}),
    "frames, whole": (stacks, {"dedup": False}),
}


def pair(shards: int, capacity: int = CAPACITY, **options: Any) -> tuple[ReplayBuffer, ShardedBuffer]:
    return ReplayBuffer(capacity, seed=5, **options), ShardedBuffer(capacity, shards=shards, seed=5, **options)


def assert_same(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for key, column in expected.items():
        assert (got[key].dtype, got[key].shape) == (column.dtype, column.shape), key
        assert got[key].tobytes() == column.tobytes(), key


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_one_buffer(kind: str, shards: int) -> None:
    make, options = KINDS[kind]
    one, sharded = pair(shards, **options)
    first, rng = 0, np.random.default_rng(shards)
    for size in SIZES:
        for buffer in (one, sharded):
            buffer.put(make(first, size))
        first += size
        for n in (5, (3, 4), 64):
            expected, got = one.sample(n), sharded.sample(n)
            assert_same(expected, got)
            if one.is_prioritized:
                errors = rng.random(expected["index"].shape)
                updated = [b.update_priorities(expected["index"], errors) for b in (one, sharded)]
                assert updated[0] == updated[1]
        if not options.get("alpha") and "sampler" not in options:
            assert_same(one.sample(6, replace=False), sharded.sample(6, replace=False))
            assert one.sample_indices(9).tolist() == sharded.sample_indices(9).tolist()
        ages = np.arange(len(one)).reshape(1, -1)
        assert_same(one.take(ages), sharded.take(ages))
        assert len(sharded) == len(one)
    assert (sharded.spec, sharded.batch_spec, sharded.keys) == (one.spec, one.batch_spec, one.keys)
    assert sharded.state_dict().keys() == one.state_dict().keys()


@pytest.mark.parametrize("sampler", [None, ("newest", {"num_rows": 20})])
def test_one_shard_in_this_process_draws_and_copies_in_one_call(sampler: Any) -> None:
    one, sharded = pair(1, sampler=sampler)
    for buffer in (one, sharded):
        buffer.put(rows(0, 55))
        buffer.remove([30, 31, 50])
    for _ in range(3):
        assert_same(one.sample((3, 4)), sharded.sample((3, 4)))
    shard, drawing = sharded._shards.sole, sharded._rows.numbering.ring
    batch = shard.sample_of(drawing, (2, 5), False)
    assert batch is not None
    assert_same(one.sample((2, 5)), batch)
    sharded._rows.numbering.advance(1)  # a row that the shard does not have
    before = sharded.state_dict()
    assert shard.sample_of(drawing, (5,), False) is None
    assert str(sharded.state_dict()) == str(before)


def test_batches_stay_the_same_after_clear_and_a_return_of_the_generator() -> None:
    one, sharded = pair(3, alpha=0.5)
    for buffer in (one, sharded):
        buffer.put(rows(0, 50))
    state = one.state_dict()
    assert_same(one.sample(8), sharded.sample(8))
    sharded.load_state_dict(state)
    one.load_state_dict(state)
    for buffer in (one, sharded):
        buffer.clear()
        with pytest.raises(EmptyBufferError, match="sample: expected"):
            buffer.sample(3)
        buffer.put(rows(50, 20))
    assert_same(one.sample((2, 8)), sharded.sample((2, 8)))
    with pytest.raises(InvalidValueError, match="state: expected"):
        sharded.load_state_dict({"no": 1})


def test_batches_ahead_and_tables_of_arrow_are_those_of_one_buffer() -> None:
    one, sharded = pair(3)
    for buffer in (one, sharded):
        for first in range(0, 100, 20):
            buffer.put({key: column for key, column in rows(first, 20).items() if key != "nothing"})
    with one.batches(16) as expected, sharded.batches(16) as got:
        for _ in range(5):
            assert_same(next(expected), next(got))
    assert sharded.to_arrow().read_all() == one.to_arrow().read_all()
    assert sharded.to_arrow(["reward"]).read_all() == one.to_arrow(["reward"]).read_all()
    assert_same(one.sample(4), sharded.sample(4))


def test_batches_asked_for_before_others_have_come_are_those_of_as_many_samples() -> None:
    one, sharded = pair(3, alpha=0.6)
    for buffer in (one, sharded):
        buffer.put(rows(0, 50))
    answers = [sharded.ask_sample((2, 8), beta=0.5) for _ in range(3)]
    for answer in answers:
        assert_same(one.sample((2, 8), beta=0.5), answer())


def test_batches_that_are_asked_for_are_handed_out_while_the_next_one_waits_for_rows() -> None:
    one, sharded = pair(3)
    for buffer in (one, sharded):
        buffer.put(rows(0, 50))
    limiter = RateLimiter(1.0, min_rows=4, error_buffer=4)
    limiter.insert(8)
    with Batches(sharded, 4, prefetch=3, before=limiter.sample) as batches:
        for _ in range(2):
            assert_same(one.sample(4), next(batches))
        assert limiter.sampled == 8
        limiter.insert(4)
        assert_same(one.sample(4), next(batches))
    np.testing.assert_equal(sharded.state_dict(), one.state_dict())


def test_a_mixture_with_a_sharded_buffer_draws_as_one_with_a_plain_buffer() -> None:
    one, sharded = pair(3, alpha=0.6)
    mixtures = []
    for buffer in (one, sharded):
        online = ReplayBuffer(CAPACITY, seed=6)
        for each, first in ((buffer, 0), (online, 1000)):
            each.put(rows(first, 50))
        mixtures.append(Mixture([(buffer, 0.3), (online, 0.7)], seed=7))
    for _ in range(20):
        expected, got = (mixture.sample(12, beta=0.5) for mixture in mixtures)
        assert_same(expected, got)
        for mixture in mixtures:
            mixture.update_priorities(expected["index"], np.arange(12.0))


def test_a_stream_that_puts_overtake_says_so() -> None:
    sharded = ShardedBuffer(CAPACITY, shards=2)
    sharded.put({"id": np.arange(60)})
    with sharded.open_reader() as reader:
        reader.read(10)
        sharded.put({"id": np.arange(30)})
        with pytest.raises(RuntimeError, match="at row 10 the next ones had been dropped"):
            reader.read(10)


def test_rows_go_to_all_shards_and_a_full_one_leaves_them_to_the_emptiest() -> None:
    sharded = ShardedBuffer(1200, shards=3)
    for first in range(0, 6000, 50):
        sharded.put({"id": np.arange(first, first + 50)})
    held = [shard["rows"] for shard in sharded.info()["shards"]]
    assert sum(held) == len(sharded) == 1200
    assert min(held) >= 300
    pieces = Allotment(1200, 3).pieces(50, np.array([30, 100, 60]), home=0)
    assert [tuple(piece) for piece in pieces] == [(0, 0, 30), (1, 30, 50)]


def test_outputs_of_the_caller_are_filled() -> None:
    one, sharded = pair(2)
    out = {}
    for buffer in (one, sharded):
        buffer.put({"id": np.arange(50), "reward": np.zeros(50, np.float32)})
        out[buffer] = {"id": np.empty((2, 8), np.int64), "reward": np.empty((2, 8), np.float32)}
        assert buffer.sample((2, 8), out=out[buffer]) is out[buffer]
    assert_same(out[one], out[sharded])
    ages = np.arange(8)
    got = {"id": np.empty(8, np.int64), "reward": np.empty(8, np.float32)}
    assert sharded.take(ages, out=got) is got
    assert got["id"].tolist() == ages.tolist()
    with pytest.raises(InvalidValueError, match=r"out\['id'\]"):
        sharded.sample(8, out={"id": np.empty(7, np.int64)})


def test_arrays_of_a_batch_are_aligned_and_the_callers_to_keep() -> None:
    sharded = ShardedBuffer(100, shards=3)
    sharded.put(rows(0, 100))
    batch = sharded.sample((4, 16))
    kept = {key: column.copy() for key, column in batch.items()}
    sharded.put(rows(100, 100))
    sharded.sample((4, 16))
    assert all(column.ctypes.data % 64 == 0 and column.flags.c_contiguous for column in batch.values())
    assert_same(kept, batch)


def test_threads_put_and_sample_at_once() -> None:
    sharded = ShardedBuffer(500, shards=3, seed=0)
    sharded.put({"id": np.arange(500), "same": np.arange(500)})
    failed = []

    def put() -> None:
        for first in range(0, 20_000, 100):
            ids = np.arange(first, first + 100)
            sharded.put({"id": ids, "same": ids})

    def sample() -> None:
        for _ in range(200):
            batch = sharded.sample(64)
            if not np.array_equal(batch["id"], batch["same"]):
                failed.append(batch)

    threads = [threading.Thread(target=each) for each in (put, put, sample, sample)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(sharded) == 500


def test_a_put_that_is_refused_changes_nothing() -> None:
    sharded = ShardedBuffer(100, shards=2)
    sharded.put({"id": np.arange(10)})
    with pytest.raises(InvalidValueError, match="put: key 'id': expected"):
        sharded.put({"id": np.zeros((3, 2), np.int64)})
    with pytest.raises(InvalidValueError, match="put: expected key 'id'"):
        sharded.put({"other": [1]})
    assert sharded.sample(50)["id"].max() == 9
    frames = ShardedBuffer(200, shards=2, max_bytes=40_000)
    frames.put(stacks(0, 1))
    noise = np.random.default_rng(0).integers(0, 255, (50, 4, 16, 32), np.uint8)
    with pytest.raises(NotEnoughMemoryError, match="max_bytes"):
        frames.put({"id": np.arange(50), "state": noise, "state_new": noise[::-1].copy()})
    assert len(frames) == 1
    for first in range(1, 8):
        frames.put(stacks(first, 1))
    assert_same(frames.take(np.arange(8)), stacks(0, 8))


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no shards": ({"shards": 0}, InvalidValueError, "shards: expected"),
    "half a shard": (
        {"shards": 1.5},
        InvalidTypeError,
        "shards: expected a number, 'nodes' or a list of nodes, got 1.5",
    ),
    "a set of nodes": ({"shards": {"a"}}, InvalidTypeError, "shards: expected a number, 'nodes' or a list of nodes"),
    "more shards than rows": ({"shards": 101}, InvalidValueError, "at most one for each of the 100 rows, got 101"),
    "a misspelled option": (
        {"shards": 2, "dedub": True},
        InvalidTypeError,
        "ShardedBuffer: got an unknown argument 'dedub'. Did you mean 'dedup'",
    ),
    "an option of another package": ({"shards": 2, "Nstep": 3}, InvalidTypeError, "here it is called n_step"),
    "a name of shards of this process": (
        {"shards": 2, "name": "mine"},
        InvalidValueError,
        "name: expected shards on n",
    ),
    "a number as name": ({"shards": 2, "name": 3}, InvalidTypeError, "name: expected text, got 3"),
    "an empty name": ({"shards": 2, "name": ""}, InvalidValueError, "name: expected text, got none"),
    "no spare rows": ({"shards": 2, "spare": 0}, InvalidValueError, "spare"),
    "no rows": ({"shards": 2, "capacity": 0}, InvalidValueError, "capacity"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_arguments_are_refused(what: str) -> None:
    given, error, text = REFUSED[what]
    with pytest.raises(error, match=text):
        ShardedBuffer(**{"capacity": 100, **given})


@pytest.mark.parametrize(
    ("verb", "text"), [("clear", "a verb of the owner"), ("save", ".*open for reading"), ("push", "put")]
)
def test_a_buffer_that_is_open_for_reading_says_which_verbs_are_the_owners(verb: str, text: str) -> None:
    with pytest.raises(AttributeError, match=f"ConnectedBuffer has no attribute '{verb}'. Here it is {text}"):
        getattr(object.__new__(ConnectedBuffer), verb)


def test_a_silent_host_delays_a_batch_by_less_than_five_seconds_by_default() -> None:
    """Only the time-out tells that a host is silent; `test_shards_on_hosts.py` measures the delay."""
    for call in (ShardedBuffer, ShardedBuffer.load, ShardedBuffer.connect):
        assert inspect.signature(call).parameters["time_out"].default < 5


def test_a_closed_buffer_says_so_and_an_unknown_row_is_refused() -> None:
    with ShardedBuffer(100, shards=2) as sharded:
        with pytest.raises(EmptyBufferError, match="take: expected"):
            sharded.take([0])
        sharded.put({"id": np.arange(5)})
        with pytest.raises(InvalidValueError, match="take: expected indices from 0 to 4, got 5"):
            sharded.take([0, 5])
        with pytest.raises(InvalidValueError, match="update_priorities: expected a buffer made with alpha="):
            sharded.update_priorities([0], [1.0])
    sharded.close()
    for use in (lambda: sharded.sample(1), lambda: sharded.put({"id": [1]}), lambda: sharded.take([0]), sharded.clear):
        with pytest.raises(ClosedError, match="expected an open buffer"):
            use()


def test_more_rows_than_memory_has_room_for_are_refused() -> None:
    with pytest.raises(NotEnoughMemoryError, match="in 4 shards with room for"):
        ShardedBuffer(10**12 // 2, shards=4, spec={"state": (np.float32, (1000,))})
