"""`epochs`: each row exactly once an epoch, every order equally likely, resumable."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from scipy import stats

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, OvertakenError, ReplayBuffer
from tests import sampling_checks as checks


def buffer_of(num=130, capacity=100, seed=0, **options):
    buffer = ReplayBuffer(capacity, seed=seed, **options)
    for start in range(0, num, 37):
        buffer.put(checks.rows(start, min(37, num - start)))
    return buffer


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.parametrize("options", [{}, {"alpha": 0.6}, {"sampler": ("newest", {"num_rows": 5})}])
@pytest.mark.parametrize(("num", "size"), [(1, 1), (99, 10), (100, 10), (101, 100), (199, 300), (130, 7)])
def test_each_row_comes_once_an_epoch(num, size, options):
    buffer = buffer_of(num, **options)
    found = buffer.epochs(size, epochs=3)
    held = range(max(0, num - 100), num)
    per_epoch = len(found) // 3
    batches = ids(found)
    assert len(batches) == 3 * per_epoch
    for epoch in range(3):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(chain(part)) == list(held)
        assert {len(batch) for batch in part[:-1]} <= {size}
    assert found.num_rows == len(buffer)


def chain(batches):
    return list(itertools.chain.from_iterable(batches))


def check_orders(order):
    """All orders of 4 rows are equally likely, and an epoch says nothing of the next."""
    drawn = np.array([order(seed) for seed in range(1200)])  # [seed, epoch, 4]
    ranks = (drawn * (64, 16, 4, 1)).sum(axis=-1)
    for epoch in range(2):
        assert stats.chisquare(np.unique(ranks[:, epoch], return_counts=True)[1]).pvalue >= checks.LEAST_P
        assert len(np.unique(ranks[:, epoch])) == 24
    pairs = np.bincount(drawn[:, 0, 0] * 4 + drawn[:, 1, 0], minlength=16)
    assert stats.chisquare(pairs).pvalue >= checks.LEAST_P


@pytest.mark.parametrize("by_buffer", [True, False])
def test_every_order_is_equally_likely(by_buffer):
    shared = buffer_of(4)

    def order(seed):
        return ids(shared.epochs(4, 2, seed=None if by_buffer else seed))

    check_orders(order)


def shuffled(draw, right):
    order = list(range(4))
    for at in range(4):
        other = draw.integers(at if right else min(at + 1, 3), 4)
        order[at], order[other] = order[other], order[at]
    return order


def test_the_check_passes_a_right_shuffle_and_fails_typical_defects():
    draw = np.random.default_rng(0)
    check_orders(lambda seed: [shuffled(draw, True), shuffled(draw, True)])
    with pytest.raises(AssertionError):  # swaps no row with itself, so gives cycles only
        check_orders(lambda seed: [shuffled(draw, False), shuffled(draw, False)])
    with pytest.raises(AssertionError):  # shuffles once for all epochs
        check_orders(lambda seed: [shuffled(draw, True)] * 2)


def test_seeds_repeat_and_differ():
    assert ids(buffer_of().epochs(7, 2)) == ids(buffer_of().epochs(7, 2))
    assert ids(buffer_of().epochs(7, 2)) != ids(buffer_of(seed=1).epochs(7, 2))
    assert ids(buffer_of().epochs(7, 2, seed=5)) == ids(buffer_of(seed=1).epochs(7, 2, seed=5))
    buffer = buffer_of()
    assert ids(buffer.epochs(7)) != ids(buffer.epochs(7))


def test_rows_that_are_put_meanwhile_are_not_in_it():
    buffer = buffer_of(90)
    found = buffer.epochs(30, 2)
    drawn = ids([next(found)])
    buffer.put(checks.rows(90, 10))
    drawn += ids(found)
    assert sorted(chain(drawn)) == sorted([*range(90)] * 2)


def test_rows_that_drop_out_end_it():
    buffer = buffer_of(100)
    found = buffer.epochs(100)
    buffer.put(checks.rows(100, 1))
    with pytest.raises(OvertakenError, match="expected the rows from 0 to before 100, but puts, remove or clear"):
        next(found)
    buffer.clear()
    with pytest.raises(OvertakenError, match="epochs: expected the rows"):
        next(found)


@pytest.mark.parametrize("how", ["same", "pickle", "save", "folder"])
@pytest.mark.parametrize("taken", [0, 3, 14, 20])
def test_it_goes_on_where_its_state_was_taken(how, taken, tmp_path):
    buffer = buffer_of(**({"path": tmp_path / "folder"} if how == "folder" else {}), capacity=120)
    buffer.put(checks.rows(130, 5))
    found = buffer.epochs(9, 2)
    for _ in range(taken):
        next(found)
    buffer_2 = buffer
    state = json.loads(json.dumps(found.state_dict()))
    if how == "pickle":
        buffer_2 = pickle.loads(pickle.dumps(buffer))
    elif how == "save":
        buffer.save(tmp_path / "saved")
        buffer_2 = ReplayBuffer.load(tmp_path / "saved")
    expected = ids(found)
    if how == "folder":
        buffer.close()
        buffer_2 = ReplayBuffer.open(tmp_path / "folder", "r+")
    again = buffer_2.epochs(9, 2, seed=77)
    again.load_state_dict(state)
    assert again.epoch == taken // 14
    assert ids(again) == expected


def test_a_state_of_a_moment_when_later_rows_had_come():
    buffer = buffer_of(130, capacity=200)
    found = buffer.epochs(9)
    next(found)
    buffer.put(checks.rows(130, 20))
    state, again = found.state_dict(), pickle.loads(pickle.dumps(buffer)).epochs(9)
    again.load_state_dict(state)
    assert ids(again) == ids(found)


def test_a_copy_into_which_rows_were_put_gives_the_same_rows():
    buffer = buffer_of(130, capacity=200)
    buffer.clear()
    buffer.put(checks.rows(130, 100))
    found = buffer.epochs(9)
    next(found)
    state, copy = found.state_dict(), pickle.loads(pickle.dumps(buffer))
    copy.put(checks.rows(230, 100))
    again = copy.epochs(9)
    again.load_state_dict(state)
    assert ids(again) == ids(found)


def test_a_state_of_later_rows_than_the_buffer_has_had_is_refused():
    buffer = buffer_of(130, capacity=200)
    copy = pickle.loads(pickle.dumps(buffer))
    found = buffer.epochs(9)
    buffer.put(checks.rows(130, 20))
    with pytest.raises(InvalidValueError, match="got batches of 9 of those from 0 to before 130, after which 20 were"):
        copy.epochs(9).load_state_dict(found.state_dict())


def test_batches_of_other_units_libraries_and_a_fixed_length():
    buffer = ReplayBuffer(100, n_step=3, gamma=0.5)
    ones = np.ones(20, np.float32)
    buffer.put({"id": np.arange(20), "reward": ones, "terminal": 0 * ones, "episode_end": 0 * ones})
    (batch,) = buffer.epochs(20)
    assert sorted(batch) == sorted(buffer.batch_spec)
    assert batch["reward"][batch["id"] == 3] == 1.75
    (batch,) = buffer.epochs(20, as_="tf")
    assert sorted(batch["id"].numpy().tolist()) == list(range(20))
    found = buffer.epochs(8, 2, drop_last=True)
    assert [len(batch["id"]) for batch in found] == [8] * 4
    endless = buffer.epochs(20, epochs=None)
    assert len(ids(next(endless) for _ in range(5))) == 5
    assert endless.epoch == 5


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda b: b.epochs(0), InvalidValueError, "batch_size: expected an integer from 1"),
        (lambda b: b.epochs((2, 3)), InvalidTypeError, "batch_size: expected an integer"),
        (lambda b: b.epochs(5, 0), InvalidValueError, "epochs: expected an integer >= 1, got 0"),
        (lambda b: b.epochs(5, seed=-1), InvalidValueError, "seed: expected an integer >= 0"),
        (lambda b: b.epochs(5, as_="numpi"), InvalidValueError, "as_: expected one of"),
        (lambda b: b.epochs(101, drop_last=True), InvalidValueError, "batch_size: expected at most the 100 rows held"),
        (lambda b: len(b.epochs(5, None)), InvalidTypeError, "len: expected a number of epochs"),
        (lambda b: b.epochs(5).load_state_dict({"seed": 1}), InvalidValueError, "state: expected what an Epochs'"),
        (
            lambda b: b.epochs(5).load_state_dict(b.epochs(6).state_dict()),
            InvalidValueError,
            "state: expected batches of 5 of the rows from 30 to before 130, got batches of 6",
        ),
        (
            lambda b: b.epochs(5).load_state_dict(buffer_of(20).epochs(5).state_dict()),
            InvalidValueError,
            "got batches of 5 of those from 0 to before 20",
        ),
        (lambda b: ReplayBuffer(5).epochs(5), EmptyBufferError, "epochs: expected a buffer that holds rows"),
    ],
)
def test_what_cannot_be_used(given, error, message):
    with pytest.raises(error, match=message):
        given(buffer_of())
