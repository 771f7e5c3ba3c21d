"""Prioritized replay through a buffer: draws, weights, late updates."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
from scipy import stats

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer

CAPACITY = 60


def rows(first, num):
    number = np.arange(first, first + num)
    return {"number": number, "state": np.repeat(number[:, None], 4, 1).astype(np.float32)}


def filled(num, alpha=0.7, capacity=CAPACITY, **options):
    """A buffer into which rows 0 to `num` were put; each row held has a priority of its own."""
    buffer = ReplayBuffer(capacity, alpha=alpha, seed=1, **options)
    for first in range(0, num, 7):
        buffer.put(rows(first, min(7, num - first)))
    held = np.arange(max(0, num - capacity), num)
    assert buffer.update_priorities(held, priority(held)) == len(held)
    return buffer


def priority(number):
    return 1.0 + number % 5


def probabilities(held, alpha=0.7, eps=1e-6):
    values = (priority(held) + eps) ** alpha
    return values / values.sum()


@pytest.mark.parametrize("num", [1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 3 * CAPACITY + 11])
def test_rows_are_drawn_by_priority_and_weighed_exactly(num):
    buffer = filled(num)
    held = np.arange(max(0, num - CAPACITY), num)
    expected = probabilities(held)
    counts = np.zeros(len(held))
    for _ in range(200):
        batch = buffer.sample(64, beta=0.5)
        np.testing.assert_array_equal(batch["number"], batch["index"])
        np.testing.assert_array_equal(batch["state"][:, 0], batch["index"])
        weights = (len(held) * expected) ** -0.5
        at = batch["index"] - held[0]
        np.testing.assert_allclose(batch["weight"], (weights / weights.max())[at], rtol=1e-6)
        counts += np.bincount(at, minlength=len(held))
    # Stratified: the spread is smaller than that of independent draws, so the test errs on the safe side.
    assert num == 1 or stats.chisquare(counts, counts.sum() * expected).pvalue > 1e-6


def test_new_rows_get_the_largest_priority():
    buffer = filled(20)
    buffer.update_priorities([3], [100.0])
    buffer.put(rows(20, 1))
    drawn = np.concatenate([buffer.sample(50)["index"] for _ in range(40)])
    assert abs((drawn == 3).mean() - (drawn == 20).mean()) < 0.02
    assert (drawn == 20).mean() > 0.2


def test_updates_of_rows_that_have_fallen_out_are_ignored():
    buffer = filled(CAPACITY)
    batch = buffer.sample(CAPACITY)
    buffer.put(rows(CAPACITY, 30))
    late = batch["index"] < 30
    assert 0 < late.sum() < CAPACITY
    held = len(batch["index"]) - int(late.sum())
    assert buffer.update_priorities(batch["index"], np.full(CAPACITY, 2.0)) == held
    assert buffer.sample(200)["index"].min() >= 30


def test_several_batches_at_once():
    batch = filled(50).sample((3, 8), beta=1.0)
    assert batch["index"].shape == batch["weight"].shape == (3, 8)
    assert batch["state"].shape == (3, 8, 4)
    np.testing.assert_array_equal(batch["state"][..., 0], batch["index"])


def test_frames_stored_once_are_drawn_by_priority(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (104, 20, 20), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(101)])
    buffer = ReplayBuffer(80, alpha=0.5, seed=0)
    buffer.put({"state": stacks[:-1], "state_new": stacks[1:], "number": np.arange(100)})
    batch = buffer.sample(64)
    np.testing.assert_array_equal(batch["state"], stacks[batch["number"]])
    np.testing.assert_array_equal(batch["state_new"], stacks[batch["number"] + 1])
    buffer.save(tmp_path / "b")
    again = ReplayBuffer.load(tmp_path / "b").sample(16)
    np.testing.assert_array_equal(again["state_new"], stacks[again["number"] + 1])


@pytest.mark.parametrize("num", [0, 1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 150])
@pytest.mark.parametrize("way", ["save", "pickle"])
def test_round_trips_give_the_same_batches(tmp_path, num, way):
    buffer = filled(num) if num else ReplayBuffer(CAPACITY, alpha=0.7, seed=1, spec={"number": np.int64})
    if way == "save":
        buffer.save(tmp_path / "b")
        other = ReplayBuffer.load(tmp_path / "b")
    else:
        other = pickle.loads(pickle.dumps(buffer))
    assert len(other) == len(buffer)
    if num == 0:
        with pytest.raises(EmptyBufferError):
            other.sample(1)
        return
    for _ in range(3):
        ours, theirs = buffer.sample(32), other.sample(32)
        np.testing.assert_array_equal(ours["number"], theirs["number"])
        np.testing.assert_array_equal(ours["weight"], theirs["weight"])


def test_the_same_seed_draws_the_same():
    one, other = filled(100), filled(100)
    np.testing.assert_array_equal(one.sample(40)["index"], other.sample(40)["index"])


def test_clear_drops_priorities_too():
    buffer = filled(100)
    buffer.clear()
    with pytest.raises(EmptyBufferError):
        buffer.sample(1)
    buffer.put(rows(100, 3))
    assert set(buffer.sample(30)["number"]) == {100, 101, 102}


def test_a_forked_child_draws_though_a_thread_of_its_parent_was_catching_up():
    buffer = filled(20)
    buffer.put(rows(20, 5))
    with buffer.sampler._catching_up:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if set(buffer.sample(50)["number"]) <= set(range(25)) else 1)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert done == (pid, 0)


def test_threads_that_put_sample_and_update():
    buffer, ended = ReplayBuffer(500, alpha=0.6, seed=0), threading.Event()
    buffer.put(rows(0, 500))
    wrong = []

    def learn():
        while not ended.is_set():
            batch = buffer.sample(64)
            if not (batch["state"] == batch["number"][:, None]).all():
                wrong.append(batch)
            buffer.update_priorities(batch["index"], np.abs(batch["state"][:, 0] % 3))

    threads = [threading.Thread(target=learn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(500, 60_000, 17):
        buffer.put(rows(first, 17))
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: b.update_priorities([0, 1], [1.0]), InvalidValueError, "shape"),
        (lambda b: b.update_priorities([0], [-1.0]), InvalidValueError, "finite numbers >= 0, got -1.0"),
        (lambda b: b.update_priorities([0], [np.nan]), InvalidValueError, "finite numbers >= 0, got nan"),
        (lambda b: b.update_priorities([99], [1.0]), InvalidValueError, "99"),
        (lambda b: b.update_priorities([0.5], [1.0]), InvalidTypeError, "integers"),
        (lambda b: b.sample(3, beta=-1), InvalidValueError, "beta"),
        (lambda b: b.sample(3, replace=False), InvalidValueError, "replace: expected True with alpha"),
        (lambda b: b.sample(3, out={}), InvalidValueError, "out: expected none for a buffer whose batches have more"),
        (lambda b: ReplayBuffer(5).sample(3, beta=0.4), InvalidValueError, "beta: expected none"),
        (lambda b: ReplayBuffer(5).update_priorities([0], [1.0]), InvalidValueError, "made with alpha="),
        (lambda b: b.sample_indices(3), InvalidValueError, "got one made with alpha="),
        (lambda b: ReplayBuffer(5, eps=0.1), InvalidValueError, "eps: expected none without alpha"),
        (lambda b: ReplayBuffer(5, alpha=-1), InvalidValueError, "alpha"),
        (lambda b: ReplayBuffer(5, alpha=0.5, spec={"weight": float}), InvalidValueError, r"got \['weight'\]"),
        (lambda b: ReplayBuffer(5, alpha=0.5).put({"index": [1]}), InvalidValueError, r"got \['index'\]"),
    ],
)
def test_refusals_change_nothing(call, error, message):
    buffer = filled(20)
    before = buffer.sampler.priorities.state_dict()
    with pytest.raises(error, match=message):
        call(buffer)
    after = buffer.sampler.priorities.state_dict()
    np.testing.assert_array_equal(before["values"], after["values"])


def test_updates_of_rows_that_have_been_cleared_are_ignored():
    buffer = ReplayBuffer(4, alpha=0.6)
    with pytest.raises(EmptyBufferError):
        buffer.update_priorities([0], [1.0])
    buffer.put({"a": np.arange(4)})
    index = buffer.sample(2)["index"]
    buffer.clear()
    assert buffer.update_priorities(index, [1.0, 2.0]) == 0
    buffer.put({"a": np.arange(4)})
    assert buffer.update_priorities(index, [1.0, 2.0]) == 0


@pytest.mark.parametrize("size", [10, 2000])
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_a_pickle_is_of_one_moment_while_others_put(size, alpha):
    """Row r has priority r, so rows and priorities of different moments would show."""
    options = {} if alpha is None else {"alpha": alpha, "eps": 0.0}
    buffer, stop, number = ReplayBuffer(size, **options), threading.Event(), itertools.count(1)

    def put():
        while not stop.is_set():
            rows = [next(number) for _ in range(7)]
            buffer.put({"a": np.array(rows)})
            if alpha is not None:
                buffer.update_priorities(np.array(rows) - 1, rows)

    buffer.put({"a": np.array([next(number)])})
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=put)
    thread.start()
    try:
        copies = [pickle.loads(pickle.dumps(buffer, protocol)) for protocol in (2, 4) for _ in range(100)]
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    for copy in copies:
        held = copy.take(np.arange(len(copy)))["a"]
        assert (np.diff(held) == 1).all()
        if alpha is not None:  # but for the last put, whose rows may not have theirs yet
            values = copy.sampler.priorities_of(copy._ring, *copy._ring.held_rows())["values"]
            assert len(values) == len(held)
            assert np.array_equal(values[:-7], held[:-7])
