"""Removed rows: everything goes on as if they had never been put. Each check is seen to fail on a typical defect."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.errors import InvalidFileError, OvertakenError, ReadOnlyError
from really.replay.disk import removed_file
from tests import sampling_checks as checks
from tests.episodes import Reference, World, concatenated

CAPACITY = 200
FILLS = (1, 2, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY - 1)
SHARES = (0.1, 0.6, 0.97)
PLACES = ("memory", "disk")


def rows(first, num):
    """Rows that all columns name."""
    number = np.arange(first, first + num)
    return {"number_put": number, "reward": (number % 10).astype(np.float32), "task": number % 3}


def filled(num=2 * CAPACITY - 30, place="memory", tmp_path=None, **options):
    buffer = ReplayBuffer(CAPACITY, seed=3, path=tmp_path / "buffer" if place == "disk" else None, **options)
    for first in range(0, num, 37):
        buffer.put(rows(first, min(37, num - first)))
    return buffer


def removed_at_random(buffer, share, seed=0):
    """Removes this share of the rows, but not all; returns the numbers of those that are left."""
    numbers = buffer.numbers()
    gone = np.random.default_rng(seed).permutation(numbers)[: min(int(share * len(numbers)), len(numbers) - 1)]
    assert buffer.remove(gone) == len(gone)
    return np.setdiff1d(numbers, gone)


def assert_drawn(drawn, left, weights=None):
    """Pearson's chi-square of drawn numbers against weights of the rows that are left, by default equal ones."""
    drawn = np.asarray(drawn).ravel()
    places = np.searchsorted(left, drawn)
    assert np.array_equal(left[np.minimum(places, len(left) - 1)], drawn), "a removed row was drawn"
    weights = np.ones(len(left)) if weights is None else np.asarray(weights, float)
    expected = weights / weights.sum() * len(drawn)
    observed = np.bincount(places, minlength=len(left))
    assert not observed[expected == 0].any()
    often = expected >= 5
    cells = [np.append(each[often], each[~often].sum()) for each in (observed, expected)]
    observed, expected = (each[cells[1] > 0] for each in cells)
    if len(observed) > 1:
        p = stats.chisquare(observed, expected).pvalue
        assert p >= checks.LEAST_P, f"not drawn by the formula: p = {p:.2g}"


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("fill", FILLS)
def test_draws_are_uniform_over_the_rows_that_are_left(fill, share):
    buffer = filled(fill)
    left = removed_at_random(buffer, share)
    assert len(buffer) == len(left)
    assert_drawn(buffer.sample(20_000)["number_put"], left)
    assert_drawn(buffer.sample((300, 60))["number_put"], left)
    without = [buffer.sample(max(1, len(left) // 2), replace=False)["number_put"] for _ in range(200)]
    assert all(len(np.unique(batch)) == len(batch) for batch in without)
    assert_drawn(without, left)
    assert sorted(buffer.sample(len(left), replace=False)["number_put"]) == left.tolist()


def test_the_check_sees_a_draw_that_takes_the_next_row_in_place_of_a_removed_one():
    buffer = filled()
    everything = buffer.numbers()
    left = removed_at_random(buffer, 0.1)
    drawn = np.random.default_rng(0).choice(everything, 20_000)
    next_left = left[np.minimum(np.searchsorted(left, drawn), len(left) - 1)]
    with pytest.raises(AssertionError, match="not drawn by the formula"):
        assert_drawn(next_left, left)
    with pytest.raises(AssertionError, match="a removed row"):
        assert_drawn(drawn, left)


@pytest.mark.parametrize("share", SHARES)
def test_batches_follow_each_other_independently(share):
    buffer = filled()
    left = removed_at_random(buffer, share)
    batches = np.searchsorted(left, buffer.sample((20_000, 2))["number_put"])
    halves = batches >= len(left) / 2
    table = [[np.sum((halves[:, 0] == one) & (halves[:, 1] == other)) for other in (0, 1)] for one in (0, 1)]
    assert stats.chi2_contingency(table).pvalue >= checks.LEAST_P


@pytest.mark.parametrize(
    ("sampler", "weights"),
    [
        (("newest", {"num_rows": 30}), lambda later: later < 30),
        (("half_life", {"half_life": 13}), lambda later: 0.5 ** (later / 13)),
        (("ere", {"updates": 1, "least": 7, "eta": 0.999}), lambda later: later < int(len(later) * 0.999**1000)),
    ],
)
@pytest.mark.parametrize("share", SHARES[:2])
def test_samplers_of_new_rows_count_the_rows_that_are_left(sampler, weights, share):
    buffer = filled(sampler=sampler)
    left = removed_at_random(buffer, share)
    later = np.arange(len(left))[::-1]
    assert_drawn(buffer.sample(20_000)["number_put"], left, weights(later))


def test_samplers_of_the_values_of_a_column_draw_rows_that_are_left():
    for sampler in (("stratified", {"column": "task"}), ("staleness", {"half_life": 2, "column": "task"})):
        buffer = filled(sampler=sampler)
        buffer.sample(8)
        left = removed_at_random(buffer, 0.5)
        task = left % 3
        weights = 1 / np.bincount(task)[task] if sampler[0] == "stratified" else 0.5 ** ((2 - task) / 2)
        assert_drawn(buffer.sample(20_000)["number_put"], left, weights)
        buffer.put(rows(1000, 50))  # evicts rows of which some are removed
        assert set(buffer.sample(20_000)["number_put"]) == set(buffer.take(np.arange(len(buffer)))["number_put"])
        buffer.remove(where=lambda columns: columns["task"] == 0)
        assert set(np.unique(buffer.sample(500)["task"])) == {1, 2}


@pytest.mark.parametrize("place", PLACES)
def test_priorities_of_removed_rows_are_zero(place, tmp_path):
    buffer = filled(place=place, tmp_path=tmp_path, alpha=1.0, eps=0.0)
    numbers = buffer.numbers()
    priorities = np.random.default_rng(0).uniform(0.5, 2, len(numbers))
    buffer.update_priorities(numbers, priorities)
    left = removed_at_random(buffer, 0.3)
    by_number = dict(zip(numbers, priorities, strict=True))
    drawn = buffer.sample(20_000)
    assert_drawn(drawn["index"], left, [by_number[number] for number in left])
    assert drawn["weight"].max() <= 1
    assert buffer.update_priorities(numbers, np.full(len(numbers), 9.0)) == len(left)
    assert_drawn(buffer.sample((100, 200))["index"], left)
    buffer.put(rows(2000, 10))
    copy = pickle.loads(pickle.dumps(buffer))
    assert np.isin(copy.sample(500)["index"], buffer.numbers()).all()
    buffer.update_priorities(buffer.numbers(), np.zeros(len(buffer)))  # then all rows are equally likely
    assert_drawn(buffer.sample((100, 200))["index"], buffer.numbers())


@pytest.mark.parametrize("place", PLACES)
def test_order_and_eviction_stay_as_in_a_list(place, tmp_path):
    draw = np.random.default_rng(1)
    buffer, held, num_put = filled(1, place, tmp_path, spare=20 if place == "disk" else None), [0], 1
    removed = set()
    for _ in range(60):
        num = int(draw.integers(0, 30))
        buffer.put(rows(num_put, num))
        held += range(num_put, num_put + num)
        num_put += num
        del held[:-CAPACITY]
        some = draw.choice(num_put, min(num_put, 9))
        expected = len((set(some.tolist()) & set(held)) - removed)
        assert buffer.remove(some) == expected
        removed |= set(some.tolist()) & set(held)
        left = [number for number in held if number not in removed]
        assert len(buffer) == len(left)
        if left:
            assert buffer.take(np.arange(len(left)))["number_put"].tolist() == left
            assert buffer.numbers().tolist() == left
    buffer.put(rows(num_put, CAPACITY))
    assert len(buffer) == CAPACITY
    assert buffer.sample(5)["number_put"].min() >= num_put


def test_draws_of_a_buffer_whose_removed_rows_dropped_out_are_those_of_another_buffer():
    one, other = filled(), filled()
    one.remove(one.numbers()[:5])
    for buffer in (one, other):
        buffer.put(rows(1000, CAPACITY))
        buffer.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(one.sample(50)["number_put"], other.sample(50)["number_put"])


def test_indices_are_those_of_the_batch():
    for share in SHARES:
        buffer = filled()
        removed_at_random(buffer, share)
        for size, replace in ((7, True), ((3, 5), True), (4, False)):
            state = buffer.state_dict()
            indices = buffer.sample_indices(size, replace=replace)
            buffer.load_state_dict(state)
            batch = buffer.sample(size, replace=replace)["number_put"]
            np.testing.assert_array_equal(buffer.take(indices)["number_put"], batch)
            np.testing.assert_array_equal(buffer.numbers(indices), batch)


def test_n_steps_end_before_a_removed_row():
    number = np.arange(50)
    columns = {"number_put": number, "reward": np.ones(50, np.float32), "state_new": number.astype(np.float32)}
    flags = {"terminal": np.zeros(50, np.float32), "episode_end": np.zeros(50, np.float32)}
    buffer = ReplayBuffer(50, n_step=3, gamma=0.5, seed=0)
    buffer.put(columns | flags)
    buffer.remove([10, 12])
    batch = buffer.take(np.arange(len(buffer)))
    steps = dict(zip(batch["number_put"].tolist(), batch["state_new"] - batch["number_put"] + 1, strict=True))
    assert {number: steps[number] for number in (7, 8, 9, 11, 13)} == {7: 3, 8: 2, 9: 1, 11: 1, 13: 3}
    assert batch["reward"][batch["number_put"] == 8] == 1.5
    assert batch["discount"][batch["number_put"] == 8] == 0.25


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_sequences_and_episodes_end_before_a_removed_row(alpha):
    world = World(3, 0, end_probability=0.1)
    chunks = [world.any_chunk() for _ in range(30)]
    data = concatenated(chunks)
    for unit in (("sequences", {"length": 3}), ("sequences", {"length": 3, "burn_in": 1, "pad": True})):
        buffer = ReplayBuffer(300, unit=unit, seed=0, alpha=alpha)
        for chunk in chunks:
            buffer.put(chunk)
        buffer.sample(4)
        numbers = buffer.numbers()
        gone = numbers[5::17]
        buffer.remove(gone)
        batch = buffer.sample(2_000)
        drawn = batch["number"][batch["number"] >= 0]
        assert not np.isin(drawn, gone).any()
        if unit[1].get("pad"):
            continue
        reference = Reference(data, 300)
        runs = [
            run for episode in reference.episodes()
            for run in np.split(np.array(episode), np.flatnonzero(np.isin(episode, gone)))
        ]  # fmt: skip
        runs = [run[1:] if len(run) and run[0] in gone else run for run in runs]
        starts = np.sort(np.concatenate([run[:-2] for run in runs if len(run) > 2]))
        if alpha is None:
            assert_drawn(buffer.sample(20_000)["number"][:, 0], starts)
        else:
            assert np.isin(batch["number"][:, 0], starts).all()


@pytest.mark.parametrize("place", PLACES)
def test_whole_episodes_are_removed(place, tmp_path):
    world = World(3, 0, end_probability=0.1)
    buffer = ReplayBuffer(400, seed=0, path=tmp_path / "buffer" if place == "disk" else None)
    for _ in range(30):
        buffer.put(world.any_chunk())
    table = buffer.episodes()
    chosen = table.filter(table["length"].to_numpy() >= 5)
    assert buffer.remove(episodes=chosen) == sum(chosen["length"].to_pylist())
    assert buffer.episodes().num_rows == table.num_rows - chosen.num_rows
    assert max(buffer.episodes()["length"].to_pylist()) < 5
    first = buffer.episodes()["first"][0].as_py()
    length = buffer.episodes()["length"][0].as_py()
    assert buffer.remove(episodes=[first]) == length
    assert buffer.remove(episodes=[first]) == 0


@pytest.mark.parametrize("place", PLACES)
def test_the_rows_that_are_left_of_episodes_of_an_older_table_are_removed(place, tmp_path):
    buffer = ReplayBuffer(25, seed=0, path=tmp_path / "buffer" if place == "disk" else None)
    ids = np.arange(38)
    buffer.put({"id": ids[:25], "terminal": (ids[:25] % 10 == 9) * 1.0})
    table = buffer.episodes()
    buffer.put({"id": ids[25:28], "terminal": np.zeros(3)})  # rows 0, 1 and 2 drop out
    assert buffer.remove([13]) == 1
    assert buffer.remove(episodes=table.slice(0, 2)) == 7 + 9
    assert buffer.numbers().tolist() == list(range(20, 28))
    assert buffer.remove(episodes=table.slice(0, 2)) == 0
    assert buffer.remove(episodes=table.select(["first"])) == 8  # the third episode has gone on


def test_a_condition_in_sql_or_numpy_chooses_the_rows():
    pytest.importorskip("duckdb")
    counts = []
    for where in (
        "reward >= 3 and reward < 6 -- three of ten",
        lambda columns: (columns["reward"] >= 3) & (columns["reward"] < 6),
        "REWARD in (3, 4, 5) and number >= 0",
    ):
        buffer = filled()
        counts.append(buffer.remove(where=where))
        assert set(np.unique(buffer.sample(1000)["reward"])) == {0, 1, 2, 6, 7, 8, 9}
    assert counts == [60, 60, 60]
    buffer = filled()
    assert buffer.remove(where="number % 2 = 0") == CAPACITY // 2
    assert buffer.remove(where=lambda columns: columns["number"] % 2 == 1) == CAPACITY // 2
    assert len(buffer) == 0
    with pytest.raises(EmptyBufferError):
        buffer.sample(1)


def test_a_predicate_reads_columns_that_share_frames():
    seen = np.random.default_rng(0).integers(0, 255, (41, 32, 40), np.uint8)
    buffer = ReplayBuffer(40, seed=0)
    buffer.put({"state": seen[:-1], "state_new": seen[1:], "reward": np.arange(40.0)})
    bright = seen[:-1].mean(axis=(1, 2)) > 127
    assert buffer.remove(where=lambda columns: columns["state"].mean(axis=(1, 2)) > 127) == bright.sum()
    np.testing.assert_array_equal(buffer.take(np.arange(len(buffer)))["state"], seen[:-1][~bright])


def copies(buffer, tmp_path):
    yield pickle.loads(pickle.dumps(buffer))
    yield pickle.loads(pickle.dumps(buffer, protocol=4))
    buffer.save(tmp_path / "saved.arrow")
    yield ReplayBuffer.load(tmp_path / "saved.arrow")


@pytest.mark.parametrize("place", PLACES)
def test_copies_have_the_same_rows_and_draw_the_same_batches(place, tmp_path):
    buffer = filled(place=place, tmp_path=tmp_path)
    left = removed_at_random(buffer, 0.3)
    for copy in copies(buffer, tmp_path):
        assert copy.take(np.arange(len(copy)))["number_put"].tolist() == left.tolist()
        state = buffer.state_dict()
        np.testing.assert_array_equal(copy.sample(50)["number_put"], buffer.sample(50)["number_put"])
        buffer.load_state_dict(state)


def test_streams_files_and_epochs_leave_removed_rows_out(tmp_path):
    buffer = filled()
    left = removed_at_random(buffer, 0.6)
    assert buffer.to_arrow().read_all()["number_put"].to_pylist() == left.tolist()
    assert buffer.to_arrow(["reward"]).read_all()["reward"].to_pylist() == (left % 10).tolist()
    buffer.to_parquet(tmp_path / "rows.parquet")
    assert len(ReplayBuffer.from_parquet(tmp_path / "rows.parquet")) == len(left)
    epoch = np.concatenate([batch["number_put"] for batch in buffer.epochs(7)])
    assert sorted(epoch) == left.tolist()
    epochs = buffer.epochs(7, epochs=2, seed=1)
    next(epochs)
    state, rest = epochs.state_dict(), np.concatenate([batch["number_put"] for batch in epochs])
    resumed = buffer.epochs(7, epochs=2)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(np.concatenate([batch["number_put"] for batch in resumed]), rest)
    running = buffer.epochs(len(left))
    buffer.remove(left[:1])
    with pytest.raises(OvertakenError, match="remove"):
        next(running)
    with pytest.raises(InvalidValueError, match="rows were removed meanwhile"):
        buffer.epochs(7).load_state_dict(state)


def test_what_cannot_be_removed_changes_nothing():
    buffer = filled()
    for error, arguments in (
        (InvalidValueError, {"numbers": [5, 10_000]}),
        (InvalidValueError, {"numbers": [-1, 300]}),
        (InvalidTypeError, {"numbers": [1.5]}),
        (InvalidTypeError, {"numbers": [True]}),
        (InvalidValueError, {"numbers": [[1], [2, 3]]}),
        (InvalidValueError, {}),
        (InvalidValueError, {"numbers": [300], "where": "true"}),
        (InvalidValueError, {"where": "no_such_column < 0"}),
        (InvalidValueError, {"where": "reward <"}),
        (InvalidTypeError, {"where": 5}),
        (InvalidValueError, {"where": lambda columns: columns["reward"]}),
        (InvalidValueError, {"where": lambda columns: np.zeros(3, bool)}),
        (InvalidValueError, {"episodes": [300]}),  # no column says where episodes end
    ):
        with pytest.raises(error):
            buffer.remove(**arguments)
        assert len(buffer) == CAPACITY
    with pytest.raises(EmptyBufferError):
        ReplayBuffer(5).remove([0])
    assert buffer.remove([]) == 0
    assert buffer.remove([0, 1]) == 0  # dropped out
    with pytest.raises(InvalidValueError, match="indices from 0 to 199"):
        buffer.numbers([200])


def test_a_sampler_of_ones_own_never_draws_a_removed_row(monkeypatch):
    from really.replay import SAMPLERS, Sampler

    class Oldest(Sampler):
        def draw(self, ring, shape, beta=None):
            return ring.oldest_row + ring.draw_below(20, shape[0]), {}

    monkeypatch.setitem(SAMPLERS, "oldest", Oldest)
    buffer = filled(sampler=Oldest())
    gone = buffer.numbers()[:20:2]
    buffer.remove(gone)
    assert_drawn(buffer.sample(5_000)["number_put"], gone + 1)


# On disk --------------------------------------------------------------------------------------------------------------


def test_a_folder_keeps_what_was_removed(tmp_path):
    buffer = filled(place="disk", tmp_path=tmp_path)
    left = removed_at_random(buffer, 0.3)
    with ReplayBuffer.open(tmp_path / "buffer") as reader:
        assert reader.numbers().tolist() == left.tolist()
        buffer.remove(left[:10])  # a process that reads sees it at its next call
        assert len(reader) == len(left) - 10
        assert_drawn(reader.sample(5_000)["number_put"], left[10:])
        with pytest.raises(ReadOnlyError):
            reader.remove(left[10:])
    assert buffer.verify().num_rows == len(left) - 10
    buffer.close()
    with ReplayBuffer.open(tmp_path / "buffer", "r+") as buffer:
        assert buffer.numbers().tolist() == left[10:].tolist()
        buffer.clear()
        buffer.put(rows(0, 5))
        assert len(buffer) == 5


def test_a_kill_between_the_file_and_the_ring_leaves_all_of_a_call(tmp_path):
    buffer = filled(place="disk", tmp_path=tmp_path)
    numbers = buffer.numbers()
    removed_file.write(tmp_path / "buffer" / "removed", buffer._storage._folder.identity, numbers[:7])
    buffer._storage._folder._detach(OvertakenError("as a kill"))
    with ReplayBuffer.open(tmp_path / "buffer", "r+") as buffer:
        assert buffer.numbers().tolist() == numbers[7:].tolist()


def test_rows_put_in_place_of_rows_lost_with_the_power_are_not_removed(tmp_path):
    buffer = filled(50, place="disk", tmp_path=tmp_path)
    identity = buffer._storage._folder.identity
    buffer.close()
    removed_file.write(tmp_path / "buffer" / "removed", identity, np.array([3, 60]))
    for num in (49, 69):
        with ReplayBuffer.open(tmp_path / "buffer", "r+") as buffer:
            assert len(buffer) == num
            buffer.put(rows(50, 20))


def test_a_damaged_or_lost_file_of_removed_rows_is_an_error(tmp_path):
    buffer = filled(place="disk", tmp_path=tmp_path)
    buffer.remove(where=lambda columns: columns["reward"] < 3)
    buffer.close()
    file = tmp_path / "buffer" / "removed"
    content = file.read_bytes()
    for damaged in (content[:-5], content.replace(b'"first": ', b'"first": 1'), b"", b"[]", content[:20] * 2):
        file.write_bytes(damaged)
        for mode in ("r", "r+"):
            with pytest.raises(InvalidFileError, match="removed"):
                ReplayBuffer.open(tmp_path / "buffer", mode)
    file.unlink()
    with pytest.raises(InvalidFileError, match="no such file"):
        ReplayBuffer.open(tmp_path / "buffer", "r+")
    file.write_bytes(content)
    ReplayBuffer.open(tmp_path / "buffer", "r+").close()


@pytest.mark.parametrize("alpha", [None, 0.7])
def test_a_return_to_a_checkpoint_brings_exactly_its_rows_back(alpha, tmp_path):
    buffer = filled(place="disk", tmp_path=tmp_path, alpha=alpha)
    left = removed_at_random(buffer, 0.3)
    moment = buffer.moments.take(buffer.state_dict())
    buffer.moments.keep(moment)
    expected = [buffer.sample(40)["number_put"] for _ in range(3)]
    buffer.put(rows(1000, 60))
    buffer.remove(buffer.numbers()[::2])
    buffer.moments.roll_back(moment)
    assert buffer.numbers().tolist() == left.tolist()
    for batch in expected:
        np.testing.assert_array_equal(buffer.sample(40)["number_put"], batch)
    buffer.remove(left[:9])
    buffer.close()
    with ReplayBuffer.open(tmp_path / "buffer", "r+") as buffer:
        assert buffer.numbers().tolist() == left[9:].tolist()
