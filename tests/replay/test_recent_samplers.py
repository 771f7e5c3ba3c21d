"""Samplers that prefer new rows draw by their formulas. Each check is seen to fail on a defect that it looks for."""

from __future__ import annotations

import contextlib
import pickle
import threading

import numpy as np
import pytest
from scipy import stats

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer, ShardedBuffer
from really.replay import EmphasizedSampler, Episodes, HalfLifeSampler, NewestSampler, Sequences, Transitions
from really.replay.draws import Draws
from really.service import sharded_buffer
from really.service.assembly import assembled
from tests import sampling_checks as checks

CAPACITY = 90
FILLS = (1, 2, 40, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY - 1)
KINDS = [
    ("newest", {"num_rows": 30}),
    ("half_life", {"half_life": 13}),
    ("ere", {"updates": 4, "least": 7, "eta": 0.99}),
]


def buffer_of(sampler, num=150, capacity=CAPACITY, seed=0, **options):
    buffer = ReplayBuffer(capacity, sampler=sampler, seed=seed, **options)
    for start in range(0, num, 37):
        buffer.put(checks.rows(start, min(37, num - start)))
    return buffer


def assert_drawn(later, weights):
    """Pearson's chi-square of how many rows were put after the drawn ones, against weights by that number."""
    assert later.min() >= 0
    assert later.max() < len(weights)
    observed = np.bincount(later.ravel(), minlength=len(weights))
    expected = weights / weights.sum() * later.size
    assert not observed[expected == 0].any(), "not drawn by the formula: rows of weight 0"
    rare = expected < 5
    cells = [np.append(each[~rare], each[rare].sum()) for each in (observed, expected)]
    observed, expected = (each[cells[1] > 0] for each in cells)
    if len(observed) > 1:
        p = stats.chisquare(observed, expected).pvalue
        assert p >= checks.LEAST_P, f"not drawn by the formula: p = {p:.2g}"


def newest(held):
    return (np.arange(held) < 30).astype(float)


def half_life(half):
    return lambda held: 0.5 ** (np.arange(held) / half)


def window(held, update, updates, eta, least):
    """c_k of the k-th update, k from 1: Wang and Ross 2019, section 4."""
    return min(held, max(int(held * eta ** (1000 * update / updates)), least))


def check_recent(draw, weights, held, num_draws=40_000):
    assert_drawn(draw(num_draws), weights(held))


@pytest.mark.parametrize("num", FILLS)
def test_the_newest_rows_are_uniform(num):
    buffer = buffer_of(NewestSampler(30), num)
    check_recent(lambda n: num - 1 - buffer.sample(n)["id"], newest, min(num, CAPACITY))


@pytest.mark.parametrize("half", [1, 2, 13, 300, 2000])
@pytest.mark.parametrize("num", FILLS)
def test_a_half_life_halves_the_probability(num, half):
    buffer = buffer_of(HalfLifeSampler(half), num, seed=num)
    check_recent(lambda n: num - 1 - buffer.sample(n)["id"], half_life(half), min(num, CAPACITY))


@pytest.mark.parametrize("half", [700, 2500])
def test_a_half_life_of_many_rows(half):
    buffer = buffer_of(HalfLifeSampler(half), 9000, capacity=6000)
    later = np.concatenate([8999 - buffer.sample(60_000)["id"] for _ in range(10)])
    assert_drawn(later, half_life(half)(6000))
    bins = np.add.reduceat(half_life(half)(6000), np.arange(0, 6000, 50))
    assert_drawn(later // 50, bins)


def test_a_half_life_follows_a_buffer_that_fills_and_is_cleared():
    buffer = buffer_of(HalfLifeSampler(2000), 0, capacity=5000)
    for num in (1, 3, 700, 2500, 5000):
        buffer.clear()
        for held in (num // 2, num):
            buffer.put(checks.rows(len(buffer), held - len(buffer)))
            if held:
                later = held - 1 - np.concatenate([buffer.sample(20_000)["id"] for _ in range(3)])
                assert_drawn(later * 20 // held, np.bincount(np.arange(held) * 20 // held, half_life(2000)(held), 20))


def test_a_half_life_draws_by_the_generator_alone_whatever_was_drawn_before():
    early, late = (buffer_of(HalfLifeSampler(2000), 100, capacity=5000) for _ in range(2))
    early.sample(1)
    for buffer in (early, late):
        buffer.put(checks.rows(100, 50))
    late.load_state_dict(early.state_dict())
    assert np.array_equal(early.sample(1000)["id"], late.sample(1000)["id"])


@pytest.mark.parametrize("num", [3, 60, 90, 200])
def test_each_update_of_a_phase_has_its_own_window(num):
    buffer, held = buffer_of(EmphasizedSampler(0.9993, 5, 20), num), min(num, CAPACITY)
    drawn = num - 1 - np.concatenate([buffer.sample((10, 2000))["id"] for _ in range(5)])
    for update in range(5):
        size = window(held, update + 1, 5, 0.9993, 20)
        assert_drawn(drawn[update::5], (np.arange(held) < size).astype(float))


def recent_windows(kind, place):
    """A buffer whose rows in episodes of ten are drawn by ERE, and whether a draw may choose each row that is left."""
    sampler, id_ = EmphasizedSampler(0.9993, 5, 20), np.arange(200)
    rows = {"id": id_, "terminal": (id_ % 10 == 9).astype(np.float32)}
    unit, may_start = {
        "sequences": (Sequences(4), id_ % 10 < 7),
        "padded sequences": (Sequences(3, burn_in=4, pad=True), (id_ % 10 == 0) | (id_ % 10 < 6)),
        "episodes": (Episodes(10), id_ % 10 == 0),
        "sequences, rows removed": (Sequences(4), id_ % 10 < 7),
    }[kind]
    if place == "memory":
        buffer = ReplayBuffer(CAPACITY, sampler=sampler, unit=unit, seed=0)
    else:
        buffer = ShardedBuffer(CAPACITY, shards=3, sampler=sampler, unit=unit, seed=0)
    for start in range(0, 200, 25):
        buffer.put({key: column[start : start + 25] for key, column in rows.items()})
    if "removed" in kind:
        removed = np.array([115, 116, 141, 160, 161, 199])
        buffer.remove(removed)
        for steps in range(4):
            may_start &= ~np.isin(id_ + steps, removed)
    return buffer, may_start[buffer.numbers()]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("sequences", "memory"), ("padded sequences", "memory"), ("episodes", "memory"),
        ("sequences, rows removed", "memory"), ("sequences", "shards"), ("episodes", "shards"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("num_batches", [1, 10])
def test_rows_that_are_drawn_again_come_from_the_window_of_their_update(kind, place, num_batches):
    buffer, may_start = recent_windows(kind, place)
    shape = (num_batches, 1500) if num_batches > 1 else 1500
    drawn = np.concatenate([buffer.sample(shape)["id"][..., 0].reshape(-1, 1500) for _ in range(50 // num_batches)])
    left = buffer.numbers()
    later = len(left) - 1 - np.searchsorted(left, drawn)
    for update in range(5):
        size = window(len(left), update + 1, 5, 0.9993, 20)
        assert_drawn(later[update::5], ((np.arange(len(left)) < size) & may_start[::-1]).astype(float))
    buffer.sample(7)
    assert buffer.state_dict()["ere_update"] == 1, "each batch is one update"


def assert_updates_in_turn(batches, num_updates_drawn):
    """The ages of drawn rows, 90 of which are held, reach back as far as the window of each update."""
    for update, ages in enumerate(np.concatenate([ages.reshape(-1, 300) for ages in batches])):
        size, next_size = (window(90, k, 5, 0.9993, 20) for k in (update % 5 + 1, update % 5 + 2))
        assert 90 - size <= ages.min() < 90 - next_size
    assert num_updates_drawn == (update + 1) % 5


@pytest.mark.parametrize("num_batches", [1, 3])
@pytest.mark.parametrize("ask", ["sample", "sample_indices", "sample of frames"])
def test_a_batch_that_is_drawn_again_is_the_same_update(monkeypatch, ask, num_batches):
    """Puts drop the rows of the first two draws of each batch before they are copied."""
    id_, num_draws, draw = np.arange(90), [0], Draws._drawn
    rows = {"id": id_, "terminal": (id_ % 10 == 9).astype(np.float32)}
    unit = Transitions(compact=True) if "frames" in ask else Sequences(2, pad=True)
    buffer = ReplayBuffer(90, sampler=EmphasizedSampler(0.9993, 5, 20), unit=unit, seed=0)
    buffer.put(rows)

    def draw_before_a_put(*args):
        drawn = draw(*args)
        num_draws[0] += 1
        if num_draws[0] % 3:
            buffer.put(rows)
        return drawn

    monkeypatch.setattr(Draws, "_drawn", draw_before_a_put)
    shape = (num_batches, 300) if num_batches > 1 else 300
    found = [buffer.sample_indices(shape) if "indices" in ask else buffer.sample(shape)["id"] for _ in range(6)]
    if ask == "sample":
        found = [id_[..., 0] for id_ in found]
    assert num_draws == [18]
    assert_updates_in_turn(found, buffer.state_dict()["ere_update"])


@pytest.mark.parametrize("num_batches", [1, 3])
def test_a_batch_of_shards_that_is_drawn_again_is_the_same_update(monkeypatch, num_batches):
    """The shards have not all rows of the first two draws of each batch."""
    buffer, num_draws = ShardedBuffer(90, shards=2, sampler=EmphasizedSampler(0.9993, 5, 20), seed=0), [0]
    buffer.put({"id": np.arange(90)})

    def assemble_at_the_third_time(*args):
        num_draws[0] += 1
        return None if num_draws[0] % 3 else assembled(*args)

    monkeypatch.setattr(sharded_buffer, "assembled", assemble_at_the_third_time)
    shape = (num_batches, 300) if num_batches > 1 else 300
    found = [(buffer.ask_sample(shape)() if at % 2 else buffer.sample(shape))["id"] for at in range(6)]
    assert num_draws == [18]
    assert_updates_in_turn(found, buffer.state_dict()["ere_update"])


def test_a_batch_of_a_reader_that_is_overtaken_is_drawn_again_as_the_same_update(tmp_path):
    sampler = EmphasizedSampler(0.9993, 1_000_000, 20)
    buffer = ReplayBuffer(90, path=tmp_path / "folder", spare=1, sampler=sampler, seed=0)
    rows, ends, num_drawn = {"wide": np.zeros((30, 20_000), np.uint8)}, threading.Event(), 0
    buffer.put(rows)

    def put():
        while not ends.is_set():
            buffer.put(rows)

    reader, writer = ReplayBuffer.open(tmp_path / "folder"), threading.Thread(target=put)
    writer.start()
    try:
        for _ in range(500):
            with contextlib.suppress(EmptyBufferError):  # of a batch that is overtaken each time
                reader.sample(256)
                num_drawn += 1
    finally:
        ends.set()
        writer.join()
    assert reader.state_dict()["ere_update"] == num_drawn > 100


def test_the_window_shrinks_over_the_phase_and_is_annealed():
    buffer = buffer_of(EmphasizedSampler(0.999, 4, 5, eta_end=1.0, anneal_rows=300), 150)
    eta = 0.9995  # half the rows are put
    sizes = [150 - buffer.sample(4000)["id"].min() for _ in range(8)]
    assert sizes == [window(90, update, 4, eta, 5) for update in (1, 2, 3, 4)] * 2
    for start in range(150, 350, 50):
        buffer.put(checks.rows(start, 50))
    assert all(350 - buffer.sample(4000)["id"].min() == 90 for _ in range(4))


class Shifted:
    """A right draw by weights, and draws with typical defects."""

    def __init__(self, weights, seed=3):
        self.weights, self.draw = weights / weights.sum(), np.random.default_rng(seed)

    def right(self, n):
        return self.draw.choice(len(self.weights), n, p=self.weights)

    def misses_the_newest(self, n):
        return np.minimum(self.right(n) + 1, len(self.weights) - 1)

    def decays_by_e(self, n):
        """Draws with a mean life of 13 rows in place of a half-life."""
        return np.floor(self.draw.exponential(13, n)).astype(int) % len(self.weights)

    def clips_what_is_not_held(self, n):
        return np.minimum(self.draw.geometric(1 - 0.5 ** (1 / 13), n) - 1, len(self.weights) - 1)

    def steps(self, n):
        """The probability halves in steps: uniform within each half-life."""
        halves = 0.5 ** (np.arange(len(self.weights)) // 13)
        return self.draw.choice(len(self.weights), n, p=halves / halves.sum())


def test_the_check_passes_a_right_draw():
    check_recent(Shifted(half_life(13)(40)).right, half_life(13), 40)


@pytest.mark.parametrize("defect", ["misses_the_newest", "decays_by_e", "clips_what_is_not_held", "steps"])
def test_the_check_fails_a_draw_with_a_defect(defect):
    with pytest.raises(AssertionError, match="not drawn by the formula"):
        check_recent(getattr(Shifted(half_life(13)(40)), defect), half_life(13), 40)


def test_the_check_fails_a_window_of_the_update_before():
    size = window(90, 0, 5, 0.9993, 20)  # k from 0
    drawn = np.random.default_rng(0).integers(0, size, 10_000)
    with pytest.raises(AssertionError, match="not drawn by the formula"):
        assert_drawn(drawn, (np.arange(90) < window(90, 1, 5, 0.9993, 20)).astype(float))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_independent(kind):
    buffer = buffer_of(kind, 2000, capacity=2000)
    drawn = np.stack([buffer.sample(32)["id"] for _ in range(500)])
    assert len(np.unique(drawn, axis=0)) == len(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_buffer_uses_the_sampler(kind):
    expected = buffer_of(kind).sample((6, 4))["id"]
    assert np.array_equal(split(buffer_of(kind), 6), expected)
    with buffer_of(kind).batches(4) as batches:
        assert np.array_equal(np.stack([next(batches)["id"] for _ in range(6)]), expected)
    with buffer_of(kind).batches(4, as_="tf") as batches:
        assert np.array_equal(np.stack([next(batches)["id"].numpy() for _ in range(6)]), expected)
    found = [batch["id"].numpy() for batch in buffer_of(kind).dataset(4).take(6)]
    assert np.array_equal(np.stack(found), expected)
    ages = buffer_of(kind).sample_indices((6, 4))
    assert np.array_equal(ages + 60, expected)


def split(buffer, num):
    return [buffer.sample(4)["id"] for _ in range(num)]


@pytest.mark.parametrize("how", ["pickle", "save", "state"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_draws_what_comes_next(kind, how, tmp_path):
    buffer = buffer_of(kind)
    split(buffer, 3)
    if how == "pickle":
        again = pickle.loads(pickle.dumps(buffer))
    elif how == "save":
        buffer.save(tmp_path / "saved")
        again = ReplayBuffer.load(tmp_path / "saved")
    else:
        again = buffer_of(kind, seed=1)
        again.load_state_dict(buffer.state_dict())
    assert again.options == buffer.options
    assert np.array_equal(split(again, 6), split(buffer, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_on_disk_continues(kind, tmp_path):
    expected = buffer_of(kind)
    with buffer_of(kind, path=tmp_path / "folder") as buffer:
        assert np.array_equal(split(buffer, 4), split(expected, 4))
    with ReplayBuffer.open(tmp_path / "folder", "r+") as again:
        assert again.options.sampler == buffer.options.sampler
        assert np.array_equal(split(again, 4), split(expected, 4))
        with ReplayBuffer.open(tmp_path / "folder", seed=0) as reader:
            assert np.array_equal(split(reader, 4), split(buffer_of(kind), 4))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_were_drawn_ahead_are_given_back(kind):
    buffer, expected = buffer_of(kind), buffer_of(kind)
    with buffer.batches(4, prefetch=3) as batches:
        next(batches)
    split(expected, 1)
    assert np.array_equal(split(buffer, 5), split(expected, 5))


def test_steps_and_views_of_other_units_come_from_the_newest_rows():
    buffer = ReplayBuffer(100, sampler=("newest", {"num_rows": 10}), n_step=3, gamma=0.9, seed=0)
    ones = np.ones(100, np.float32)
    buffer.put({"id": np.arange(100), "reward": ones, "terminal": 0 * ones, "episode_end": 0 * ones})
    batch = buffer.sample(200)
    assert batch["id"].min() >= 90
    assert np.allclose(batch["reward"][batch["id"] < 98], 1 + 0.9 + 0.81)


def test_the_newest_rows_without_replacement():
    buffer = buffer_of(NewestSampler(30))
    drawn = buffer.sample((50, 30), replace=False)["id"]
    assert (np.sort(drawn, axis=1) == np.arange(120, 150)).all()
    with pytest.raises(InvalidValueError, match="n: expected at most 30 rows with replace=False, got 31"):
        buffer.sample(31, replace=False)
    with pytest.raises(InvalidValueError, match="n: expected at most 30 rows with replace=False, got 31"):
        buffer.sample_indices(31, replace=False)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (("newest", {}), InvalidTypeError, "sampler: expected options of 'newest', got {}"),
        (("newest", {"num_rows": 0}), InvalidValueError, "num_rows: expected an integer from 1"),
        (("newest", {"num_rows": 1.5}), InvalidTypeError, "num_rows: expected an integer"),
        (("half_life", {"half_life": -1}), InvalidValueError, "half_life: expected an integer from 1"),
        (("ere", {"eta": 0.0}), InvalidValueError, "eta: expected a number above 0, up to 1, got 0.0"),
        (("ere", {"eta": 1.1}), InvalidValueError, "eta: expected a number from 0 to 1"),
        (("ere", {"updates": 0}), InvalidValueError, "updates: expected an integer from 1"),
        (("ere", {"eta_end": 1.0}), InvalidValueError, "eta_end, anneal_rows: expected both or none, got 1.0 and None"),
        (("ere", {"least": "5"}), InvalidTypeError, "least: expected an integer"),
    ],
)
def test_options_that_cannot_be_used(kind, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(5, sampler=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_they_do_not_use(kind):
    buffer = buffer_of(kind)
    with pytest.raises(InvalidValueError, match="beta: expected none"):
        buffer.sample(5, beta=0.4)
    if kind[0] != "newest":
        with pytest.raises(InvalidValueError, match="replace: expected True with"):
            buffer.sample(5, replace=False)
        with pytest.raises(InvalidValueError, match="replace: expected True with"):
            buffer.sample_indices(5, replace=False)


def test_a_phase_that_cannot_be_continued_changes_nothing():
    buffer = buffer_of(KINDS[2])
    split(buffer, 2)
    state = buffer.state_dict()
    assert state["ere_update"] == 2
    with pytest.raises(InvalidValueError, match="state: expected what a buffer's state_dict gave"):
        buffer.load_state_dict(state | {"ere_update": 4})
    assert buffer.state_dict()["ere_update"] == 2
