"""Sequences against a slow reference, their starts by chi-square, and all ways in which batches come out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer, ShardedBuffer
from really.replay import UNITS, Episodes, Sampler, Sequences, sequence_priorities
from really.replay.trajectories import Trajectories, TrajectoryColumns
from tests.episodes import Reference, World, concatenated
from tests.sampling_checks import assert_uniform

ADDED = ("mask", "is_first", "number")


def assert_windows(batch, rows, reference, length, burn_in=0, joins=False):
    """Each window of the batch [n, burn_in + length] is the reference's from its first row on."""
    numbers = batch["number"].reshape(-1, burn_in + length)
    flat = {key: column.reshape(len(numbers), burn_in + length, *column.shape[batch["number"].ndim :])
            for key, column in batch.items()}  # fmt: skip
    for at, window in enumerate(numbers):
        expected = reference.window(window[0], burn_in + length, joins)
        num = len(expected)
        assert window.tolist() == expected + [-1] * (burn_in + length - num)
        for key, column in rows.items():
            assert flat[key][at, :num].tobytes() == column[expected].tobytes()
            assert not flat[key][at, num:].any()
        first = [row in reference.first for row in expected] + [False] * (burn_in + length - num)
        learned = reference.mask(expected, burn_in) + [False] * (burn_in + length - num)
        assert flat["is_first"][at].tolist() == [float(flag) for flag in first]
        assert flat["mask"][at].tolist() == [float(flag) for flag in learned]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    capacity=st.integers(1, 80),
    num_agents=st.integers(1, 4),
    num_chunks=st.integers(1, 8),
    length=st.integers(1, 7),
    burn_in=st.integers(0, 4),
    pad=st.booleans(),
    joins=st.booleans(),
    end=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    loss=st.sampled_from([0.0, 0.1]),
    asks=st.booleans(),
)
def test_starts_and_windows_against_the_reference(
    seed, capacity, num_agents, num_chunks, length, burn_in, pad, joins, end, loss, asks
):
    world = World(num_agents, seed, end, loss)
    unit = Sequences(length, burn_in, pad=pad, across_episodes=joins)
    buffer = ReplayBuffer(capacity, unit=unit, seed=seed)
    chunks = []
    for _ in range(num_chunks):
        chunks.append(world.any_chunk())
        buffer.put(chunks[-1])
        if asks:
            rows = concatenated(chunks)
            reference = Reference(rows, capacity)
            starts = reference.starts(length, burn_in, pad, joins)
            numbers = np.arange(reference.oldest, reference.num)
            assert numbers[starts_of(buffer).are_starts(numbers)].tolist() == starts
    rows = concatenated(chunks)
    reference = Reference(rows, capacity)
    starts = reference.starts(length, burn_in, pad, joins)
    numbers = np.arange(reference.oldest, reference.num)
    assert numbers[starts_of(buffer).are_starts(numbers)].tolist() == starts
    assert starts_of(buffer).starts_if_below(len(starts)) is None
    assert starts_of(buffer).starts_if_below(len(starts) + 1).tolist() == starts
    assert_windows(buffer.take(np.arange(len(buffer))), rows, reference, length, burn_in, joins)
    if not starts:
        with pytest.raises(EmptyBufferError, match="sample: expected episodes of which"):
            buffer.sample(3)
        return
    assert sorted(buffer.sample(len(starts), replace=False)["number"][:, 0].tolist()) == starts
    batch = buffer.sample((2, 8))
    assert set(batch["number"][..., 0].reshape(-1).tolist()) <= set(starts)
    assert_windows(batch, rows, reference, length, burn_in, joins)


def starts_of(buffer):
    return buffer._draws.unit.starts


def filled(capacity=300, num_agents=3, num_chunks=40, end=0.1, unit=None, seed=0, **options):
    """A buffer that has wrapped, its rows, and the reference."""
    world = World(num_agents, seed, end)
    buffer = ReplayBuffer(capacity, unit=unit or Sequences(5), seed=seed, **options)
    chunks = [world.any_chunk() for _ in range(num_chunks)]
    for chunk in chunks:
        buffer.put(chunk)
    rows = concatenated(chunks)
    return buffer, rows, Reference(rows, capacity)


def assert_starts_uniform(sample, starts, draws):
    """Each start is drawn equally often by `sample(n)`, which gives numbers of starts."""
    drawn = np.concatenate([sample(64) for _ in range(draws // 64)])
    place = {number: at for at, number in enumerate(starts)}
    assert set(drawn.tolist()) <= set(starts)
    assert_uniform(np.bincount([place[number] for number in drawn.tolist()], minlength=len(starts)))


@pytest.mark.parametrize(
    "unit",
    [
        Sequences(5),
        Sequences(3, burn_in=2, pad=True),
        Sequences(6, across_episodes=True),
        Sequences(3, burn_in=4, pad=True, across_episodes=True),
        Sequences(3, burn_in=4, pad=True, across_episodes=True, compact=True),
    ],
)
def test_every_start_is_equally_likely(unit):
    buffer, _, reference = filled(unit=unit)
    starts = reference.starts(unit.length, unit.burn_in, unit.pad, unit.across_episodes)
    assert 20 < len(starts) < 300
    assert_starts_uniform(lambda n: buffer.sample(n)["number"][:, 0], starts, 30_000)


def put_with_flags(buffer, end=0.1):
    """Puts rows of three agents of which about a third may be starts; returns all rows."""
    world, chunks = World(3, 0, end), []
    for _ in range(40):
        chunk = world.any_chunk()
        chunk["may_start"] = (world.draw.random(len(chunk["agent"])) < 1 / 3).astype(np.float32)
        buffer.put(chunk)
        chunks.append(chunk)
    return concatenated(chunks)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"burn_in": 2, "pad": True},
        {"across_episodes": True, "compact": True},
        {"burn_in": 3, "pad": True, "across_episodes": True},
    ],
)
def test_windows_begin_only_where_a_column_lets_them(options):
    buffer = ReplayBuffer(300, unit=Sequences(4, **options, starts_at="may_start"), seed=0)
    rows = put_with_flags(buffer)
    reference = Reference(rows, 300)
    all_starts = reference.starts(
        4, options.get("burn_in", 0), options.get("pad", False), options.get("across_episodes", False)
    )
    starts = [start for start in all_starts if rows["may_start"][start]]
    assert 20 < len(starts) < len(all_starts) / 2
    assert_starts_uniform(lambda n: buffer.sample(n)["number"][:, 0], starts, 20_000)


def test_no_window_begins_where_no_row_may_be_the_first():
    buffer = ReplayBuffer(300, unit=Sequences(4, starts_at="may_start"), seed=0)
    put_with_flags(buffer)
    numbers = buffer.numbers()
    buffer.update(numbers, {"may_start": np.zeros(len(numbers), np.float32)})
    with pytest.raises(EmptyBufferError, match=r"sample: expected a row whose 'may_start' is not 0 with 4 steps of"):
        buffer.sample(2)
    buffer.update(numbers[:200], {"may_start": np.ones(200, np.float32)})
    assert set(buffer.sample(500)["number"][:, 0].tolist()) <= set(numbers[:200].tolist())


class FirstRowsOfEpisodes(Sampler):
    """A typical defect: episodes are drawn evenly, then a start within one, so that short ones come too often."""

    def __init__(self, reference, starts):
        self.draw_from = np.random.default_rng(0)
        episodes = [[row for row in episode if row in starts] for episode in reference.episodes()]
        self.episodes = [episode for episode in episodes if episode]

    def sample(self, n):
        chosen = self.draw_from.integers(0, len(self.episodes), n)
        return np.array([self.draw_from.choice(self.episodes[at]) for at in chosen])


def test_the_check_of_starts_fails_for_typical_defects():
    _, _, reference = filled()
    starts = reference.starts(5)
    broken = FirstRowsOfEpisodes(reference, set(starts))
    with pytest.raises(AssertionError, match="not uniform"):
        assert_starts_uniform(broken.sample, starts, 30_000)
    draw = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="not uniform"):  # the newest start is never drawn
        assert_starts_uniform(lambda n: draw.choice(starts[:-1], n), starts, 30_000)


def test_few_starts_among_many_rows_are_drawn_evenly():
    """One long episode among short ones: a draw finds its starts without a look at all rows."""
    world = World(1, end_probability=1.0)
    buffer = ReplayBuffer(20_000, unit=Sequences(10), seed=0)
    buffer.put(world.chunk([(0, 9_000)]))
    world.end_probability = 0.0
    buffer.put(world.chunk([(0, 14)]))
    world.end_probability = 1.0
    buffer.put(world.chunk([(0, 9_000)]))
    assert_starts_uniform(lambda n: buffer.sample(n)["number"][:, 0], list(range(9_000, 9_006)), 2_000)


@pytest.mark.parametrize("ends", [(), (97, 118, 131, 160, 171, 199)], ids=["one episode", "episodes"])
@pytest.mark.parametrize(("length", "burn_in", "pad"), [(20, 0, False), (12, 9, True), (1, 0, False)])
def test_long_windows_are_copied_as_they_were_put(ends, length, burn_in, pad):
    """Windows of consecutive rows, also over the last slot of the ring, in columns of all lengths."""
    rng, num = np.random.default_rng(0), 230
    rows = {f"of {size}": rng.integers(0, 255, (num, size), np.uint8) for size in (1, 2, 3, 4, 8, 12, 16, 24, 32, 70)}
    rows["terminal"] = np.isin(np.arange(num), ends).astype(np.float32)
    buffer = ReplayBuffer(150, unit=Sequences(length, burn_in, pad=pad), seed=1)
    buffer.put({key: column[:100] for key, column in rows.items()})
    buffer.put({key: column[100:] for key, column in rows.items()})
    steps, drawn = length + burn_in, buffer.sample((2, 300))
    taken = buffer.take(np.arange(150))
    assert {key: column.shape[:-1] for key, column in drawn.items() if "of" in key} == {
        key: (2, 300, steps) for key in drawn if "of" in key
    }
    for batch in (drawn, taken):
        numbers = batch["number"].reshape(-1, steps)
        flat = {key: column.reshape(len(numbers), steps, -1) for key, column in batch.items()}
        for at, window in enumerate(numbers.tolist()):
            until = next(end for end in (*ends, num - 1) if end >= window[0]) + 1
            expected = list(range(window[0], min(window[0] + steps, until)))
            assert window == expected + [-1] * (steps - len(expected))
            first = 0 if window[0] - 1 in ends else burn_in
            assert flat["mask"][at, :, 0].tolist() == [float(first <= i < len(expected)) for i in range(steps)]
            for key, column in rows.items():
                assert flat[key][at, : len(expected)].reshape(len(expected), -1).tobytes() == column[expected].tobytes()
                assert not flat[key][at, len(expected) :].any()
    assert len(set(drawn["number"][..., 0].reshape(-1).tolist())) > 30


def test_a_draw_knows_what_changed_since_the_one_before():
    rows = {"x": np.arange(60, dtype=np.float32), "terminal": np.zeros(60, np.float32)}
    buffer = ReplayBuffer(50, unit=Sequences(10), seed=0)

    def starts():
        return set(buffer.sample(1_000)["number"][:, 0].tolist())

    buffer.put({key: column[:30] for key, column in rows.items()})
    assert starts() == set(range(21))
    buffer.put({key: column[30:] for key, column in rows.items()})
    assert starts() == set(range(10, 51))
    buffer.update([25], {"terminal": [1.0]})
    assert starts() == {*range(10, 17), *range(26, 51)}
    buffer.update([40], {"x": [-1.0]})
    assert -1 in buffer.sample(1_000)["x"]
    buffer.remove([50])
    assert starts() == {*range(10, 17), *range(26, 41)}
    copy = pickle.loads(pickle.dumps(buffer))
    assert copy.sample(7)["number"].tolist() == buffer.sample(7)["number"].tolist()
    buffer.clear()
    with pytest.raises(EmptyBufferError):
        starts()


class OfTheFirstRow(Sequences):
    """Windows from the first row alone."""

    def sample(self, ring, shape):
        return self.take(ring, np.zeros(shape, np.int64))


def test_a_unit_that_samples_in_its_own_way_does(monkeypatch):
    monkeypatch.setitem(UNITS, "of the first row", OfTheFirstRow)
    buffer = ReplayBuffer(100, unit=OfTheFirstRow(3), seed=0)
    buffer.put(World(1, end_probability=0).chunk([(0, 50)]))
    assert all((buffer.sample(n)["number"][..., 0] == 0).all() for n in (4, 4, (2, 4), 4))


def test_no_start_twice_within_a_batch():
    buffer, _, reference = filled()
    starts = reference.starts(5)
    batch = buffer.sample((3, len(starts)), replace=False)
    for numbers in batch["number"][:, :, 0]:
        assert sorted(numbers.tolist()) == starts
    with pytest.raises(InvalidValueError, match="at most"):
        buffer.sample(len(starts) + 1, replace=False)


def test_indices_are_drawn_again_if_a_put_drops_one_of_their_rows(monkeypatch):
    rows = {"x": np.arange(40), "terminal": np.zeros(40, np.float32)}
    buffer, draw, num_puts = ReplayBuffer(40, unit=Sequences(3), seed=0), Trajectories.draw, [0]
    buffer.put(rows)

    def draw_before_a_put(*args, **options):
        drawn = draw(*args, **options)
        if num_puts[0] > 0:
            num_puts[0] -= 1
            buffer.put({**rows, "x": rows["x"] + 1000})
        return drawn

    monkeypatch.setattr(Trajectories, "draw", draw_before_a_put)
    num_puts[0] = 5
    indices = buffer.sample_indices((2, 6))
    assert num_puts == [0]
    assert (buffer.take(indices)["x"][..., 0] == indices + 1000).all()
    num_puts[0] = 1 << 30
    with pytest.raises(EmptyBufferError, match="sample_indices: expected rows that stay while they are drawn"):
        buffer.sample_indices(6)


def test_frames_are_stored_once_and_come_out_whole():
    frames = np.random.default_rng(0).integers(0, 255, (131, 20, 20), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(128)])
    ends = np.arange(127) % 40 == 39
    rows = {
        "state": stacks[:-1], "state_new": stacks[1:], "terminal": ends.astype(np.float32),
        "row": np.arange(127),
    }  # fmt: skip
    buffer = ReplayBuffer(100, unit=Sequences(12, pad=True), seed=0)
    buffer.put({key: column[:50] for key, column in rows.items()})
    buffer.put({key: column[50:] for key, column in rows.items()})
    assert buffer._ring.shared
    batch = buffer.sample(200)
    held = batch["number"] >= 0
    assert not held.all()
    for key in ("state", "state_new", "row"):
        np.testing.assert_array_equal(batch[key][held], rows[key][batch["number"][held]])
        assert not batch[key][~held].any()
    assert {len(set(window[window >= 0] // 40)) for window in batch["number"]} == {1}


def test_equal_frames_that_are_stored_twice_continue_a_trajectory():
    """Two chunks whose frames are copies: the search for equal frames need not have found them."""
    frames = np.random.default_rng(0).integers(0, 255, (21, 40, 40), np.uint8)
    rows = {"state": frames[:-1], "state_new": frames[1:], "terminal": np.zeros(20, np.float32)}
    buffer = ReplayBuffer(40, unit=Sequences(20), seed=0)
    for first, last in ((0, 10), (10, 20)):
        buffer.put({key: column[first:last].copy() for key, column in rows.items()})
        buffer.put({key: np.zeros_like(column[:0]) for key, column in rows.items()})
    np.testing.assert_array_equal(buffer.sample(1)["state"][0], rows["state"])


UNLIKE = {
    "only states are stacks": {"state": (4, 0), "state_new": (1, 0)},
    "only next states are stacks": {"state": (1, 0), "state_new": (4, 2)},
    "other axes": {"state": (4, 2), "state_new": (4, 0)},
}


@pytest.mark.parametrize("stack", UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("where", ["memory", "compact", "folder", "shards"])
def test_trajectories_of_states_and_next_states_that_are_stored_differently(where, stack, tmp_path):
    options = {"folder": {"path": tmp_path / "folder"}, "shards": {"shards": 2}}.get(where, {})
    unit, make = Sequences(4, compact=where == "compact"), ShardedBuffer if where == "shards" else ReplayBuffer
    buffer = make(100, unit=unit, stack=stack, seed=0, **options)
    world, chunks = World(2, end_probability=0.05, loss_probability=0.05), []
    table = np.random.default_rng(0).integers(0, 255, (2, 200, 64, 4), np.uint8)
    for _ in range(20):
        chunks.append(world.any_chunk())
        stacks = {
            key: table[
                chunks[-1][key][:, 0].astype(int)[:, None], chunks[-1][key][:, 1].astype(int)[:, None] + range(4)
            ]
            for key in ("state", "state_new")
        }
        buffer.put(chunks[-1] | stacks)
    reference = Reference(concatenated(chunks), 100)
    starts = reference.starts(4)
    assert 20 < len(starts) < 80
    assert sorted(buffer.sample(len(starts), replace=False)["number"][:, 0].tolist()) == starts
    assert buffer.episodes().num_rows == len(reference.episodes())
    buffer.close()


@pytest.mark.parametrize("way", ["pickle", "save", "folder", "reader"])
def test_what_is_made_again_draws_the_same_windows(way, tmp_path):
    where = {"path": tmp_path / "folder"} if way in ("folder", "reader") else {}
    buffer, rows, reference = filled(unit=Sequences(4, burn_in=2, pad=True), **where)
    before = buffer.state_dict()
    if way == "pickle":
        again = pickle.loads(pickle.dumps(buffer))
    elif way == "save":
        buffer.save(tmp_path / "saved")
        again = ReplayBuffer.load(tmp_path / "saved")
    elif way == "reader":
        again = ReplayBuffer.open(tmp_path / "folder")
        again.load_state_dict(before)
    expected = buffer.sample((2, 20))
    if way == "folder":
        buffer.load_state_dict(before)
        buffer.close()
        again = ReplayBuffer.open(tmp_path / "folder", "r+")
    batch = again.sample((2, 20))
    assert {key: column.tobytes() for key, column in batch.items()} == {
        key: column.tobytes() for key, column in expected.items()
    }
    assert_windows(batch, rows, reference, 4, 2)


def test_batches_and_datasets_have_windows():
    buffer, rows, reference = filled(unit=Sequences(4, pad=True))
    with buffer.batches(6, as_="torch" if _has_torch() else "numpy") as batches:
        batch = next(batches)
    assert tuple(batch["state"].shape) == (6, 4, 2)
    assert_windows({key: np.asarray(column) for key, column in batch.items()}, rows, reference, 4)
    dataset = buffer.dataset((2, 6))
    assert dataset.element_spec["state"].shape == (2, 6, 4, 2)
    (batch,) = dataset.take(1)
    assert_windows({key: column.numpy() for key, column in batch.items()}, rows, reference, 4)


def _has_torch():
    try:
        import torch
    except ImportError:
        return False
    return torch is not None


def test_indices_of_draws():
    buffer, _, _ = filled()
    state = buffer.state_dict()
    ages = buffer.sample_indices((2, 5))
    buffer.load_state_dict(state)
    np.testing.assert_array_equal(buffer.take(ages)["number"], buffer.sample((2, 5))["number"])


def test_a_trajectory_goes_on_in_a_later_chunk_of_other_agents():
    world = World(2, end_probability=0.0)
    buffer = ReplayBuffer(100, unit=Sequences(6), seed=0)
    buffer.put(world.chunk([(0, 3), (1, 2)]))
    with pytest.raises(EmptyBufferError, match=r"of which 6 steps are held, the longest of 2 has 3"):
        buffer.sample(1)
    buffer.put(world.chunk([(1, 1), (0, 3)]))
    np.testing.assert_array_equal(buffer.sample(1)["number"], [[0, 1, 2, 6, 7, 8]])


@pytest.mark.parametrize("agent", ["agent", ("runner", "env")])
def test_columns_that_tell_agents_apart(agent):
    """Rows of four agents alternate; their states are equal, so that only the columns tell them apart."""
    num = 40
    rows = {
        "state": np.repeat(np.arange(10, dtype=np.float32), 4), "state_new": np.repeat(np.arange(1, 11.0), 4),
        "terminal": np.zeros(num, np.float32), "row": np.arange(num),
        "agent": np.array([b"a", b"b", b"c", b"d"] * 10), "runner": np.arange(num) // 2 % 2, "env": np.arange(num) % 2,
    }  # fmt: skip
    buffer = ReplayBuffer(100, unit=Sequences(3, agent=agent), seed=0)
    buffer.put(rows)
    assert (np.diff(buffer.sample(50)["row"]) == 4).all()


def test_ends_come_from_the_columns_that_know_them():
    """Runners set `episode_end` at the end of each chunk, too; `not_done` tells whether the episode ended there."""
    rows = {
        "reward": np.zeros(6, np.float32), "terminal": np.zeros(6, np.float32),
        "episode_end": np.array([0, 0, 1, 0, 0, 1], np.float32),
    }  # fmt: skip
    buffer = ReplayBuffer(6, unit=Sequences(4), seed=0)
    buffer.put(rows)
    with pytest.raises(EmptyBufferError, match="the longest of 2 has 3"):
        buffer.sample(1)
    buffer = ReplayBuffer(6, unit=Sequences(4), seed=0)
    buffer.put(rows | {"not_done": np.ones(6, np.float32)})
    assert len(buffer.sample(3)["number"]) == 3


def test_rows_whose_states_do_not_follow_each_other_are_in_order_if_they_are_to_be():
    rows = {"state": np.zeros(6), "state_new": np.ones(6), "terminal": np.zeros(6, np.float32)}
    buffer = ReplayBuffer(6, unit=Sequences(2), seed=0)
    buffer.put(rows)
    with pytest.raises(EmptyBufferError, match="a column that tells them apart; an episode goes on only"):
        buffer.sample(1)
    buffer = ReplayBuffer(6, unit=Sequences(6, checks_states=False), seed=0)
    buffer.put(rows)
    np.testing.assert_array_equal(buffer.sample(1)["number"], [[0, 1, 2, 3, 4, 5]])


def prioritized(unit, **options):
    buffer, rows, reference = filled(unit=unit, alpha=0.8, **options)
    starts = np.array(reference.starts(unit.length, unit.burn_in, unit.pad, unit.across_episodes))
    priorities = np.random.default_rng(1).uniform(0.1, 3, len(starts))
    return buffer, rows, reference, starts, priorities


def assert_by_priority(buffer, starts, priorities, n=100, num=200, beta=0.5):
    """Each start comes n P(i) times a batch, with the weight (P(i) / min P)^-beta."""
    share = (priorities + 1e-6) ** 0.8
    counts, place = np.zeros(len(starts)), {number: at for at, number in enumerate(starts.tolist())}
    for _ in range(num):
        batch = buffer.sample(n, beta=beta)
        assert set(batch["index"].tolist()) <= set(place)
        np.testing.assert_array_equal(batch["index"], batch["number"][:, 0])
        at = np.array([place[number] for number in batch["index"].tolist()])
        np.testing.assert_allclose(batch["weight"], (share[at] / share.min()) ** -beta, rtol=1e-4)
        counts += np.bincount(at, minlength=len(starts))
    assert_uniform(counts, share)


@pytest.mark.parametrize(
    "unit",
    [Sequences(5), Sequences(3, burn_in=2, pad=True), Sequences(3, burn_in=4, pad=True, across_episodes=True)],
)
def test_starts_are_drawn_by_priority(unit):
    buffer, _, _, starts, priorities = prioritized(unit)
    assert buffer.update_priorities(starts, priorities) == len(starts)
    assert_by_priority(buffer, starts, priorities)
    others = np.setdiff1d(np.arange(buffer._ring.oldest_row, buffer._ring.num_put), starts)
    assert buffer.update_priorities(others, np.full(len(others), 100.0)) == 0
    assert_by_priority(buffer, starts, priorities, num=70)


@pytest.mark.parametrize("unit", [Sequences(5), Sequences(3, burn_in=2, pad=True)])
def test_starts_are_equally_likely_if_all_their_priorities_are_zero(unit):
    buffer, _, _, starts, _ = prioritized(unit, eps=0.0)
    buffer.update_priorities(starts, np.zeros(len(starts)))
    batch = buffer.sample((20, 500))
    place = np.searchsorted(starts, batch["index"])
    assert (starts[np.minimum(place, len(starts) - 1)] == batch["index"]).all(), "other rows than starts"
    assert_uniform(np.bincount(place.ravel(), minlength=len(starts)))
    assert (batch["weight"] == 1).all()
    buffer.update_priorities(starts[:1], [0.5])
    assert set(buffer.sample(50)["index"].tolist()) == {starts[0]}


def test_rows_that_become_starts_get_the_largest_priority_so_far():
    world = World(1, end_probability=0.0)
    buffer = ReplayBuffer(100, unit=Sequences(4), alpha=0.8, seed=0)
    buffer.put(world.chunk([(0, 6)]))
    assert set(buffer.sample(20)["index"].tolist()) == {0, 1, 2}
    assert buffer.update_priorities([0, 1, 2], [0.5, 1.5, 2.0]) == 3
    buffer.put(world.chunk([(0, 2)]))
    assert_by_priority(buffer, np.arange(5), np.array([0.5, 1.5, 2.0, 2.0, 2.0]))
    again = pickle.loads(pickle.dumps(buffer))
    again.put(world.chunk([(0, 1)]))
    assert_by_priority(again, np.arange(6), np.array([0.5, 1.5, 2.0, 2.0, 2.0, 2.0]))


def test_priorities_of_sequences():
    """eta max + (1 - eta) mean over steps that count (Kapturowski et al. 2019, section 2.3)."""
    errors = [[1.0, -3.0, 2.0, 50.0], [4.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]
    mask = [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(sequence_priorities(errors, mask), [0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 1, 0])
    np.testing.assert_allclose(sequence_priorities(errors, mask, eta=0.0), [2, 1, 0])
    with pytest.raises(InvalidValueError, match=r"errors: expected \[..., length\] of the mask's shape \[3, 4\]"):
        sequence_priorities([1.0, 2.0], mask)
    with pytest.raises(InvalidValueError, match="eta: expected a number from 0 to 1"):
        sequence_priorities(errors, mask, eta=2)


class Newest(Sampler):
    """A sampler that knows nothing of starts, with random rows of the newest 60."""

    def start(self, capacity, bit_generator, overcommit):
        self.random = np.random.default_rng(0)

    def draw(self, ring, shape, beta=None):
        _, newest = ring.held_rows()
        return self.random.integers(newest - 60, newest, shape), {}


def test_other_samplers_draw_again_until_all_rows_are_starts(monkeypatch):
    from really.replay import SAMPLERS

    monkeypatch.setitem(SAMPLERS, "newest", Newest)
    buffer, _, reference = filled(sampler="newest")
    starts = [row for row in reference.starts(5) if row >= reference.num - 60]
    assert_starts_uniform(lambda n: buffer.sample(n)["number"][:, 0], starts, 20_000)


def test_a_sampler_that_prefers_rows_without_a_start_says_so():
    rows = World(1, end_probability=0.0).chunk([(0, 1000)])
    rows["cue"] = np.float32(np.arange(1000) % 100 == 0)
    buffer = ReplayBuffer(1000, unit=Sequences(4, starts_at="cue"), sampler=("half_life", {"half_life": 3}), seed=0)
    buffer.put(rows)
    with pytest.raises(
        EmptyBufferError, match=r"can start from, whose 'cue' is not 0, got others too in 1,000 draws: few"
    ):
        buffer.sample(8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 0}, InvalidValueError, "length: expected an integer"),
        ({"length": 2.5}, InvalidTypeError, "length: expected an integer"),
        ({"length": 4, "burn_in": -1}, InvalidValueError, "burn_in: expected an integer"),
        ({"length": 4, "pad": 1}, InvalidTypeError, "pad: expected True or False, got 1"),
        ({"length": 4, "starts_at": 3}, InvalidTypeError, "starts_at: expected the name of a column, or None, got 3"),
    ],
)
def test_arguments_that_cannot_be_used(options, error, message):
    with pytest.raises(error, match=message):
        Sequences(**options)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"reward": [0.0]}, {}, r"sequences: expected one of the keys .*terminal.*, which tell where episodes end"),
        ({"terminal": [0.0]}, {"agent": "env"}, r"sequences: expected the keys \['env'\], which tell agents apart"),
        ({"terminal": [[0.0, 0.0]]}, {}, "sequences: key 'terminal': expected a number, got float32 of"),
        ({"terminal": [0.0]}, {"starts_at": "here"}, "sequences: expected the key starts_at='here', which tells where"),
        ({"terminal": [0.0], "here": [[1]]}, {"starts_at": "here"}, "key 'here', which tells where windows may begin"),
        (
            {"terminal": [0.0], "mask": [1.0]},
            {},
            r"sequences: expected no keys \['mask'\], which batches add, got \['terminal', 'mask'\]",
        ),
    ],
)
def test_columns_that_cannot_be_used_change_nothing(rows, options, message):
    buffer = ReplayBuffer(10, unit=Sequences(2, **options))
    with pytest.raises(InvalidValueError, match=message):
        buffer.put(rows)
    assert buffer.spec is None
    assert len(buffer) == 0


@pytest.mark.parametrize("options", [{}, {"pad": True}, {"pad": True, "compact": True}])
def test_no_windows_are_a_batch_without_rows(options):
    buffer = ReplayBuffer(100, unit=Sequences(500_000, checks_states=False, **options))
    ids = np.arange(20)
    buffer.put({"state": ids, "frame": np.zeros((20, 2, 30, 30), np.uint8), "terminal": (ids % 7 == 6) * 1.0})
    batch = buffer.take([])
    assert {len(column) for column in batch.values()} == {0}
    assert batch["state"].shape == batch["mask"].shape == batch["number"].shape == (0, 500_000)
    batch["state"][:] = 1


def test_a_ring_refuses_other_rows_than_those_of_the_batch():
    buffer = ReplayBuffer(100)
    buffer.put({"state": np.arange(20)})
    ring = buffer.open_reader().ring
    for num_rows, num, num_batches in ((0, 5, 0), (4, 5, 3), (6, 5, 0)):
        with pytest.raises(ValueError, match=f"rows: expected 5 in each of {num_batches or 1} batches, got {num_rows}"):
            ring.take(np.zeros(num_rows, np.int64), num, num_batches)


def test_out_is_refused_and_empty_buffers_too():
    buffer, _, _ = filled()
    with pytest.raises(InvalidValueError, match="out: expected none"):
        buffer.sample(2, out={})
    with pytest.raises(EmptyBufferError, match="sample: expected a buffer that holds rows"):
        ReplayBuffer(5, unit=Sequences(2)).sample(2)


def test_steps_of_the_same_episode():
    """The index that other units ask: steps around a row, and the row so many steps on."""
    world = World(2, seed=3, end_probability=0.2)
    chunks = [world.any_chunk() for _ in range(20)]
    rows = concatenated(chunks)
    buffer = ReplayBuffer(80, seed=0)
    for chunk in chunks:
        buffer.put(chunk)
    index, reference = Trajectories(buffer._ring, TrajectoryColumns.of(buffer.spec)), Reference(rows, 80)
    episodes = reference.episodes()
    for episode in episodes:
        numbers = np.array(episode)
        before, after = index.steps_around(numbers)
        assert before.tolist() == list(range(len(episode)))
        assert after.tolist() == list(range(len(episode) - 1, -1, -1))
        assert index.step_on(numbers, after).tolist() == [episode[-1]] * len(episode)
        assert index.step_on(numbers, -before - 1).tolist() == [-1] * len(episode)
    table = index.segments()
    assert table.first.tolist() == [episode[0] for episode in episodes]
    assert table.length.tolist() == [len(episode) for episode in episodes]
    assert (table.begins & table.ends).tolist() == [reference.is_whole(episode) for episode in episodes]
    gone = index.steps_around(np.array([[0, 10_000]]))
    assert [part.tolist() for part in gone] == [[[-1, -1]], [[-1, -1]]]


def rows_of_agents(kind, first, num, draw):
    """Rows of one agent that never ends and others that do: new ones for each episode, or always the same."""
    ids = np.arange(first, first + num)
    agent = np.where(draw.random(num) < 0.2, -1, ids // 5 if kind == "new agents" else ids % 3)
    ends = (draw.random(num) < 0.5) & (agent >= 0)
    return {"id": ids, "agent": agent, "reward": ids.astype(np.float32), "terminal": ends.astype(np.float32)}


@pytest.mark.parametrize("agent", [None, ("agent", "reward")], ids=["one column", "two columns"])
@pytest.mark.parametrize("unit", ["windows", "episodes"])
@pytest.mark.parametrize("kind", ["new agents", "the same agents"])
def test_the_index_of_a_long_run_is_that_of_its_rows_and_does_not_grow(kind, unit, agent):
    draw = np.random.default_rng(3)
    unit = Sequences(3, burn_in=1, across_episodes=True, agent=agent) if unit == "windows" else Episodes(agent=agent)
    buffer = ReplayBuffer(100, unit=unit, seed=0)
    for first in range(0, 30_000, 60):
        buffer.put(rows_of_agents(kind, first, 60, draw))
        index = starts_of(buffer)
        if first % 1500 == 0:
            copy = pickle.loads(pickle.dumps(buffer))
            table, expected = (one.episodes(agent=agent) for one in (buffer, copy))
            assert table.equals(expected)
            held = buffer.numbers()
            assert np.array_equal(index.are_starts(held), starts_of(copy).are_starts(held))
            windows = (one.take(np.arange(len(held))) for one in (buffer, copy))
            assert len({b"".join(column.tobytes() for column in batch.values()) for batch in windows}) == 1
        index.are_starts(buffer.numbers())
    assert len(index._agents) < 500
    assert len(index._streams) + len(index._empty) <= len(index._agents)
    assert len(index._index.segments().base) < 500
