"""Draws by the values of a column: staleness and strata. Each check is seen to fail on a defect that it looks for."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.replay import Episodes, Sequences, StalenessSampler, StratifiedSampler
from really.replay.row_groups import RowGroups
from really.replay.trajectories import Trajectories
from really.service import ShardedBuffer
from tests.replay.test_recent_samplers import assert_drawn, split
from tests.replay.test_sequences import starts_of

CAPACITY = 60
KINDS = [
    ("staleness", {"half_life": 2.0}),
    ("staleness", {"most": 3}),
    ("stratified", {"column": "task"}),
    ("stratified", {"column": "task", "weights": {0: 1, 2: 3.0}}),
]


def rows(first, num):
    ids = np.arange(first, first + num)
    return {"id": ids, "policy_version": versions(ids), "task": tasks(ids)}


def versions(ids):
    """New versions come after ever more rows, and some rows of the version before come late."""
    version = np.sqrt(ids).astype(int)
    return version - (ids % 5 == 0)


def tasks(ids):
    return (ids % 7 > 2).astype(np.int64) + (ids % 7 > 5)


def buffer_of(sampler, num=150, capacity=CAPACITY, seed=0, **options):
    buffer = ReplayBuffer(capacity, sampler=sampler, seed=seed, **options)
    for start in range(0, num, 11):
        buffer.put(rows(start, min(11, num - start)))
        if start % 4 == 0:
            buffer.sample(3)
    return buffer


def drawn(buffer, num, num_draws=30_000):
    return num - 1 - buffer.sample(num_draws)["id"]


def by_staleness(ids, half_life=None, most=None):
    stale = versions(ids).max() - versions(ids)
    weights = np.ones(len(ids)) if half_life is None else 0.5 ** (stale / half_life)
    return weights * (stale <= (most if most is not None else np.inf))


def held_ids(num, capacity=CAPACITY):
    """Newest first."""
    return np.arange(num - 1, max(num - capacity, 0) - 1, -1)


@pytest.mark.parametrize("options", [{"half_life": 1.5}, {"most": 2}, {"half_life": 3, "most": 1}, {"most": 0}])
@pytest.mark.parametrize("num", [1, 59, 60, 61, 119, 400])
def test_staler_rows_are_less_likely(num, options):
    assert_drawn(drawn(buffer_of(StalenessSampler(**options), num), num), by_staleness(held_ids(num), **options))


@pytest.mark.parametrize("weights", [None, {0: 1, 1: 2, 2: 0.5}, {2: 1.0}, [(0, 0.0), (1, 1), (2, 1), (9, 4)]])
@pytest.mark.parametrize("num", [7, 59, 60, 61, 119, 400])
def test_strata_have_their_shares(num, weights):
    buffer, ids = buffer_of(StratifiedSampler("task", weights), num), held_ids(num)
    share = dict(weights or [(0, 1), (1, 1), (2, 1)])
    counts = np.bincount(tasks(ids), minlength=3)
    expected = np.array([share.get(task, 0) / counts[task] for task in tasks(ids)])
    assert_drawn(np.concatenate([drawn(buffer, num, 100) for _ in range(300)]), expected)
    total = sum(share.get(task, 0) for task in range(3))
    batch = buffer.sample((50, 25))["task"]
    for task in range(3):
        exact = 25 * share.get(task, 0) / total
        found = (batch == task).sum(axis=1)
        assert ((found == np.floor(exact)) | (found == np.ceil(exact))).all()


def test_the_expected_number_of_a_stratum_is_exact_where_batches_do_not_divide():
    buffer = buffer_of(StratifiedSampler("task"))
    assert_drawn(buffer.sample((30_000, 2))["task"], np.ones(3))
    assert_drawn(buffer.sample((30_000, 1))["task"], np.ones(3))


def episodes_of_tasks(num, lengths):
    """Episodes of the tasks in turns, each task's of one length."""
    task = np.concatenate([np.full(lengths[at % len(lengths)], at % len(lengths)) for at in range(num)])
    end = np.concatenate([np.arange(lengths[at % len(lengths)])[::-1] == 0 for at in range(num)])
    ids = np.arange(len(task))
    return {"id": ids, "state": ids, "state_new": ids + 1, "task": task, "terminal": end.astype(np.float32)}


@pytest.mark.parametrize("make", [ReplayBuffer, partial(ShardedBuffer, shards=3)], ids=["one", "shards"])
@pytest.mark.parametrize("weights", [None, {0: 1, 1: 3}])
@pytest.mark.parametrize("unit", [Sequences(3), Episodes(400)], ids=["sequences", "episodes"])
def test_strata_have_their_shares_of_starts(unit, weights, make):
    """Of task 1 few rows are starts of whole episodes; of each task all starts are equally likely."""
    put = episodes_of_tasks(16, (3, 300))
    buffer = make(3000, unit=unit, sampler=StratifiedSampler("task", weights), seed=0)
    plain = ReplayBuffer(3000, unit=unit)
    for one in (buffer, plain):
        one.put(put)
        one.remove([1, 310])
    share = 1 / 2 if weights is None else 1 / 4
    starts = buffer.sample((300, 20))["id"][:, :, 0]
    found = put["task"][starts]
    assert ((found == 0).sum(axis=1) == 20 * share).all()
    is_start = np.flatnonzero(starts_of(plain).are_starts(put["id"]))
    counts = np.bincount(put["task"][is_start])
    weight = np.array([share, 1 - share])[put["task"][is_start]] / counts[put["task"][is_start]]
    assert_drawn(np.searchsorted(is_start, starts.reshape(-1)), weight)
    assert np.isin(starts, is_start).all()


@pytest.mark.parametrize("unit", [Sequences(298), Episodes(400)], ids=["sequences", "episodes"])
def test_rows_of_a_stratum_are_the_same_from_the_list_of_all_starts_as_from_a_look_at_its_rows(unit, monkeypatch):
    list_starts, put, listed = Trajectories.starts_if_below, episodes_of_tasks(40, (3, 300, 2, 20)), []

    def batches(is_listed):
        def starts_if_below(index, num):
            listed.append(list_starts(index, num) if is_listed else None)
            return listed[-1]

        monkeypatch.setattr(Trajectories, "starts_if_below", starts_if_below)
        buffer = ReplayBuffer(1000, unit=unit, sampler=StratifiedSampler("task"), seed=0)
        for first in range(0, len(put["id"]), 90):
            buffer.put({key: column[first : first + 90] for key, column in put.items()})
            if first > 600:
                yield buffer.sample(30)["number"].tolist()

    assert list(batches(True)) == list(batches(False))
    assert sum(starts is not None for starts in listed) > 20


def test_strata_have_their_shares_of_the_rows_that_are_left():
    buffer = buffer_of(StratifiedSampler("task"), 60)
    buffer.remove(np.flatnonzero(tasks(np.arange(60)) == 1)[1:])
    for _ in range(2):
        assert np.bincount(buffer.sample(30)["task"]).tolist() == [10, 10, 10]
        buffer.put(rows(60, 1))


def test_a_value_without_a_start_has_no_share():
    whole = episodes_of_tasks(12, (3, 4, 5))
    whole["agent"] = whole["task"]
    put = {key: column.copy() for key, column in whole.items()}
    put["terminal"][put["task"] == 1] = 0.0
    buffer = ReplayBuffer(1000, unit=Episodes(10), sampler=StratifiedSampler("task", {0: 2, 1: 1, 2: 1}), seed=0)
    buffer.put(put)
    found = buffer.sample((3000, 5))["task"][..., 0]
    assert set(found.reshape(-1).tolist()) == {0, 2}
    assert_drawn(found // 2, np.array([2.0, 1.0]))
    buffer.put({key: column[whole["task"] == 1] for key, column in whole.items()})
    assert np.bincount(buffer.sample(20)["task"][:, 0]).tolist() == [10, 5, 5]
    buffer = ReplayBuffer(1000, unit=Episodes(10), sampler=StratifiedSampler("task", {1: 1}), seed=0)
    buffer.put(put)
    with pytest.raises(EmptyBufferError, match="sample: expected rows that a sequence can start from"):
        buffer.sample(5)


def wrong_draws():
    ids, draw = held_ids(150), np.random.default_rng(4)

    def by(weights):
        return draw.choice(len(ids), 30_000, p=weights / weights.sum())

    def in_proportion():
        return by(np.ones(len(ids)))

    def by_row_age():
        return by(0.5 ** (np.arange(len(ids)) / 12))

    def ignores_late_rows():
        return by(0.5 ** ((np.sqrt(ids).astype(int).max() - np.sqrt(ids).astype(int)) / 1.5))

    def by_version_alone():
        """A version first, whatever number of rows it has."""
        counts = np.bincount(versions(ids))
        return by(by_staleness(ids, 1.5) / counts[versions(ids)])

    return [in_proportion, by_row_age, ignores_late_rows, by_version_alone]


@pytest.mark.parametrize("wrong", wrong_draws(), ids=lambda wrong: wrong.__name__)
def test_the_check_of_staleness_fails_a_draw_with_a_defect(wrong):
    with pytest.raises(AssertionError, match="not drawn by the formula"):
        assert_drawn(wrong(), by_staleness(held_ids(150), 1.5))


def test_the_check_of_strata_fails_shares_that_are_rounded_for_good():
    draw = np.random.default_rng(5)
    found = draw.permuted(np.array([0] * 9 + [1] * 8 + [2] * 8).repeat(1000))  # 25 rows of 3 strata: the first gets 9
    with pytest.raises(AssertionError, match="not drawn by the formula"):
        assert_drawn(found, np.ones(3))


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_buffer_uses_the_sampler(kind):
    expected = split(buffer_of(kind), 6)
    with buffer_of(kind).batches(4) as batches:
        assert np.array_equal([next(batches)["id"] for _ in range(6)], expected)
    with buffer_of(kind).batches(4, as_="tf") as batches:
        assert np.array_equal([next(batches)["id"].numpy() for _ in range(6)], expected)
    found = [batch["id"].numpy() for batch in buffer_of(kind).dataset(4, batches_per_call=1).take(6)]
    assert np.shape(found) == (6, 4)
    assert buffer_of(kind).sample((4, 5))["id"].shape == (4, 5)


@pytest.mark.parametrize("how", ["pickle", "save", "state", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_draws_what_comes_next(kind, how, tmp_path):
    buffer = buffer_of(kind, **({"path": tmp_path / "folder"} if how == "folder" else {}))
    split(buffer, 3)
    expected = pickle.loads(pickle.dumps(buffer))
    if how == "pickle":
        again = pickle.loads(pickle.dumps(buffer))
    elif how == "save":
        buffer.save(tmp_path / "saved")
        again = ReplayBuffer.load(tmp_path / "saved")
    elif how == "folder":
        buffer.close()
        again = ReplayBuffer.open(tmp_path / "folder", "r+")
    else:
        again = buffer_of(kind, seed=1)
        again.load_state_dict(buffer.state_dict())
    assert again.options.sampler == expected.options.sampler
    assert np.array_equal(split(again, 6), split(expected, 6))


@pytest.mark.parametrize("kind", [("staleness", {"half_life": 2.0}), ("stratified", {"column": "policy_version"})])
def test_a_copy_draws_what_comes_next_though_values_came_in_another_order(kind):
    """The buffer has read its rows put by put, and has dropped some values; the copy reads them at once."""
    buffer = ReplayBuffer(40, sampler=kind, seed=0)
    for version in (8, 5, 3, 6, 4):
        buffer.put({"policy_version": np.full(10, version), "id": np.arange(10) + 100 * version})
        buffer.sample(4)
    copy = pickle.loads(pickle.dumps(buffer))
    for _ in range(3):
        assert np.array_equal(buffer.sample(40)["id"], copy.sample(40)["id"])


def test_rows_that_came_after_a_state_was_taken_are_read_again():
    """As a buffer on disk that returns to a checkpoint: the same numbers are other rows."""
    buffer = buffer_of(StratifiedSampler("task"), 60, capacity=200)
    state = buffer.state_dict()
    buffer.sample(5)
    buffer.clear()
    buffer.put({key: column[::-1].copy() for key, column in rows(0, 60).items()})
    buffer.load_state_dict(state)
    batch = buffer.sample(300)
    assert (batch["task"] == tasks(batch["id"])).all()
    assert np.bincount(batch["task"]).tolist() == [100, 100, 100]


def test_groups_follow_any_puts():
    draw = np.random.default_rng(0)
    buffer, groups = ReplayBuffer(500, spec={"value": np.int16}), RowGroups("value")
    held, put = np.zeros(0, int), 0
    for _ in range(300):
        new = draw.integers(put // 300, put // 300 + 9, draw.integers(1, 90)) ** draw.integers(1, 3)
        buffer.put({"value": new})
        held, put = np.append(held, new)[-500:], put + len(new)
        if draw.random() < 0.1:
            buffer.clear()
            held = held[:0]
        if draw.random() < 0.7 and len(held):
            groups.follow(buffer._ring)
            counts = dict(zip(groups.values.tolist(), groups.counts.tolist(), strict=True))
            assert {value: count for value, count in counts.items() if count} == {
                int(value): int(count) for value, count in zip(*np.unique(held, return_counts=True), strict=True)
            }
            which = np.repeat(np.arange(len(groups.counts)), groups.counts)
            places = np.concatenate([np.arange(count) for count in groups.counts])
            found = groups.rows(which, places)
            assert np.array_equal(np.sort(found), np.arange(put - len(held), put))
            assert np.array_equal(held[found - (put - len(held))], groups.values[which])
    assert len(groups.values) < 300
    assert len(groups._rows) < 20_000


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (("staleness", {}), InvalidValueError, "half_life, most: expected one of them or both, got none"),
        (("staleness", {"half_life": 0}), InvalidValueError, "half_life: expected a number > 0, got 0"),
        (("staleness", {"most": -1}), InvalidValueError, "most: expected an integer >= 0"),
        (("stratified", {}), InvalidTypeError, "sampler: expected options of 'stratified'"),
        (("stratified", {"column": 3}), InvalidTypeError, "column: expected the name of a column, got 3"),
        (("stratified", {"column": "task", "weights": {}}), InvalidValueError, "weights: expected one above 0"),
        (("stratified", {"column": "task", "weights": {0: -1}}), InvalidValueError, "weights: 0: expected a finite"),
        (("stratified", {"column": "task", "weights": {"a": 1}}), InvalidTypeError, "weights: expected an integer"),
        (("stratified", {"column": "task", "weights": 3}), InvalidTypeError, "weights: expected value -> weight"),
    ],
)
def test_options_that_cannot_be_used(kind, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(5, sampler=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_and_arguments_that_cannot_be_used(kind):
    column = "policy_version" if kind[0] == "staleness" else "task"
    buffer = ReplayBuffer(5, sampler=kind)
    with pytest.raises(InvalidValueError, match=f"sampler: expected the key '{column}', by which .* draws, got"):
        buffer.put({"id": [1]})
    with pytest.raises(InvalidValueError, match=f"key '{column}': expected integers of shape \\[\\].* got float32 of"):
        ReplayBuffer(5, sampler=kind, spec={column: np.float32})
    with pytest.raises(EmptyBufferError, match="sample: expected a buffer that holds rows"):
        ReplayBuffer(5, sampler=kind, spec={column: np.int32}).sample(3)
    buffer.put(rows(0, 5))
    with pytest.raises(InvalidValueError, match="replace: expected True"):
        buffer.sample(2, replace=False)
    with pytest.raises(InvalidValueError, match="sample_indices: expected a buffer that draws uniformly or by age"):
        buffer.sample_indices(2)


def test_no_rows_of_a_stratum_with_a_weight():
    buffer = buffer_of(StratifiedSampler("task"))
    again = ReplayBuffer(5, sampler=("stratified", {"column": "task", "weights": {7: 1}}))
    again.put(buffer.take([0, 1, 2]))
    with pytest.raises(EmptyBufferError, match=r"expected rows whose 'task' is one of \[7\], got rows of \["):
        again.sample(3)
