"""Mixtures: shares of a batch, sources, priorities routed back. Checks are seen to fail on typical defects."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

from really import ClosedError, EmptyBufferError, InvalidTypeError, InvalidValueError, Mixture, ReplayBuffer
from really.data.schema import ColumnSpec
from really.replay import SAMPLERS, Sampler, Transitions
from tests import sampling_checks as checks


def rows(first, num, **more):
    ids = np.arange(first, first + num)
    return {"id": ids, "reward": ids.astype(np.float32), **more}


def buffer_of(first=0, num=100, capacity=80, seed=0, more=None, **options):
    buffer = ReplayBuffer(capacity, seed=seed, **options)
    buffer.put(rows(first, num, **(more or {})))
    return buffer


def mixture_of(weights=(0.5, 0.5), second=None, **options):
    parts = buffer_of(), buffer_of(1000, 30, 50, **({"alpha": 0.6} if second is None else second))
    return Mixture(zip(parts, weights, strict=False), **{"seed": 0, **options})


def test_a_batch_has_exactly_its_share_of_each_buffer():
    mixture = mixture_of()
    for size in (64, 2, (5, 6)):
        batch = mixture.sample(size)
        half = batch["source"].shape[-1] // 2
        assert (batch["source"] == np.repeat([0, 1], half)).all()
        assert (batch["id"] >= 1000).tolist() == (batch["source"] == 1).tolist()
        assert (batch["reward"] == batch["id"]).all()
        assert all(column.ctypes.data % 64 == 0 and column.flags.c_contiguous for column in batch.values())
    assert list(batch) == ["id", "reward", "index", "weight", "source"]
    assert {key: (column.dtype, column.shape[2:]) for key, column in batch.items()} == mixture.batch_spec
    assert len(mixture) == 110


def check_rows(draw, shares, fills):
    """Every row comes with its buffer's share over the buffer's rows."""
    drawn = np.concatenate([draw() for _ in range(3000)])
    cells = [np.bincount(drawn[drawn // 1000 == at] % 1000, minlength=fill) for at, fill in enumerate(fills)]
    expected = [np.full(fill, share / fill) for share, fill in zip(shares, fills, strict=True)]
    p = stats.chisquare(np.concatenate(cells), np.concatenate(expected) * len(drawn)).pvalue
    assert p >= checks.LEAST_P, f"not a mixture of these shares: p = {p:.2g}"


@pytest.mark.parametrize("counts", ["exact", "binomial"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 0.3, 0.2), (3, 0, 1)])
@pytest.mark.parametrize("n", [1, 7])
def test_every_row_has_its_probability(counts, weights, n):
    fills = (5, 20, 40)
    parts = [buffer_of(1000 * at, fill, seed=at) for at, fill in enumerate(fills)]
    mixture = Mixture(zip(parts, weights, strict=True), counts=counts, seed=3)
    used = [at for at in range(3) if weights[at]]
    renumber = np.array([used.index(at) if at in used else -1 for at in range(3)])

    def draw():
        ids = mixture.sample(n)["id"]
        return renumber[ids // 1000] * 1000 + ids % 1000

    check_rows(draw, [weights[at] / sum(weights) for at in used], [fills[at] for at in used])


def test_exact_numbers_are_rounded_and_binomial_ones_spread():
    mixture = mixture_of((0.3, 0.7), {})
    found = (mixture.sample((2000, 25))["source"] == 0).sum(axis=1)
    assert set(found) == {7, 8}
    assert found.mean() == pytest.approx(7.5, abs=0.06)
    found = (mixture_of((0.3, 0.7), {}, counts="binomial").sample((4000, 25))["source"] == 0).sum(axis=1)
    expected = stats.binom.pmf(np.arange(26), 25, 0.3) * 4000
    cells = [[each[:4].sum(), *each[4:12], each[12:].sum()] for each in (np.bincount(found, minlength=26), expected)]
    assert stats.chisquare(*cells).pvalue >= checks.LEAST_P


@pytest.mark.parametrize("defect", ["always rounds up", "by fill", "one source a batch"])
def test_the_check_fails_typical_defects(defect):
    draw = np.random.default_rng(0)

    def wrong():
        if defect == "by fill":
            source = draw.choice(2, 7, p=[0.2, 0.8])
        else:
            source = np.repeat([0, 1], [4, 3])
        low = draw.integers(0, 5, 7) if defect != "one source a batch" else np.minimum(draw.integers(0, 6, 7), 4)
        return np.where(source == 0, low, 1000 + draw.integers(0, 20, 7))

    with pytest.raises(AssertionError, match="not a mixture"):
        check_rows(wrong, (0.5, 0.5), (5, 20))


def test_weights_are_annealed_by_the_number_of_the_batch():
    mixture = mixture_of((lambda number: max(0.0, 1 - number / 4), lambda number: number / 4))
    assert [(mixture.sample(8)["source"] == 1).sum() for _ in range(6)] == [0, 2, 4, 6, 8, 8]
    mixture = mixture_of((lambda number: max(0.0, 1 - number / 4), lambda number: number / 4))
    assert (mixture.sample((6, 8))["source"] == 1).sum(axis=1).tolist() == [0, 2, 4, 6, 8, 8]
    assert mixture.shares_of(2).tolist() == [0.5, 0.5]


def test_priorities_go_back_to_the_rows_they_are_of():
    first = buffer_of(0, 80, alpha=1.0, eps=0.0)
    second, uniform = buffer_of(1000, 30, alpha=1.0, eps=0.0), buffer_of(2000, 30)
    mixture = Mixture({first: 1, uniform: 1, second: 2}, seed=0)
    batch = mixture.sample((50, 64), beta=1.0)
    wanted = ((batch["id"] == 7) | (batch["id"] == 1003)).astype(float)
    assert (batch["weight"][batch["source"] == 1] == 1).all()
    num = mixture.update_priorities(batch["index"], wanted)
    assert num == (batch["source"] != 1).sum()
    assert set(first.sample(50)["id"]) == {7}
    assert set(second.sample(50)["id"]) <= {1003, *(set(range(1000, 1030)) - set(batch["id"].ravel()))}
    batch = mixture.sample(64)
    assert set(batch["id"][batch["source"] == 0]) == {7}


def test_rows_that_dropped_out_are_not_counted():
    mixture = mixture_of((1, 1))
    index = mixture.sample(64)["index"]
    mixture.buffers[1].put(rows(5000, 50))
    assert mixture.update_priorities(index, np.ones(64)) == 0


def test_columns_that_one_lacks_are_named(caplog):
    plain, wide = buffer_of(), buffer_of(1000, 30, more={"task": np.arange(30)})
    mixture = Mixture({plain: 1, wide: 1})
    assert caplog.messages == ["Mixture: batches leave out 'task', which buffers [0] lack"]
    assert mixture.missing == {"task": [0]}
    assert list(mixture.sample(4)) == ["id", "reward", "source"]
    assert (mixture.sample(64)["id"][32:] >= 1000).all()
    assert list(Mixture({plain: 1, wide: 1}, keys=["reward"], source=None).sample(4)) == ["reward"]
    assert len(caplog.messages) == 1
    with pytest.raises(
        InvalidValueError, match=r"keys: expected columns of all buffers, got 'task', which buffers \[0\]"
    ):
        Mixture({plain: 1, wide: 1}, keys=["task"])


OWN_COLUMNS = {
    "int8": np.full(30, 7, np.int8),
    "float64": np.full(30, 7.0),
    "large": np.full((30, 4096), 7.0),
    "frames": np.random.default_rng(0).integers(0, 255, (31, 4, 20, 20), np.uint8),
}


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", OWN_COLUMNS)
@pytest.mark.parametrize("in_both", [False, True])
def test_a_buffers_own_column_source_is_left_out_for_that_of_the_mixture(in_both, kind, compact):
    own = {"source": OWN_COLUMNS[kind]}
    if kind == "frames":
        own = {"source": OWN_COLUMNS[kind][:-1], "source_new": OWN_COLUMNS[kind][1:]}
    other = buffer_of(1000, 30, more=own, unit=Transitions(compact=compact))
    parts = {buffer_of(0, 30, more=own if in_both else None): 0.5, other: 0.5}
    mixture = Mixture(parts, keys=["id", "reward"] if in_both else None, seed=0)
    assert (len(other.open_reader().ring.shared) > 0) == (kind == "frames")
    for _ in range(20):
        batch = mixture.sample(256)
        assert list(batch) == ["id", "reward", "source"]
        assert batch["source"].tolist() == [0] * 128 + [1] * 128
        assert np.array_equal(batch["id"], batch["reward"])
        assert np.array_equal(batch["id"] >= 1000, batch["source"])


def test_a_column_source_of_all_buffers_is_refused_unless_one_is_renamed():
    parts = {buffer_of(0, 30, more={"source": np.full(30, 7)}): 1, buffer_of(9, 30, more={"source": np.full(30, 7)}): 1}
    with pytest.raises(InvalidValueError, match=r"expected no columns \['source'\].*source= renames one"):
        Mixture(parts)
    batch = Mixture(parts, source="part").sample(4)
    assert batch["source"].tolist() == [7, 7, 7, 7]
    assert batch["part"].tolist() == [0, 0, 1, 1]
    assert Mixture(parts, source=None).sample(4)["source"].tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize("name", ["index", "weight"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_buffers_own_column_of_the_name_of_one_of_priorities_is_left_out(name, dtype, caplog):
    own = buffer_of(1000, 30, more={name: np.full(30, 0.25, dtype)})
    batch = Mixture({buffer_of(alpha=0.6): 1, own: 1}).sample(8)
    assert caplog.messages == [f"Mixture: batches leave out {name!r}, which buffers [0] lack"]
    assert batch["index"][4:].tolist() == [-1] * 4
    assert batch["weight"][4:].tolist() == [1.0] * 4
    assert batch["source"].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("options", [{}, {"alpha": 0.6}], ids=["uniform", "prioritized"])
def test_a_part_of_the_columns_of_rows_that_share_frames(options):
    frames = np.random.default_rng(0).integers(0, 255, (40, 20, 20), np.uint8)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)

    def filled(first, **kind):
        more = {"state": stacks[:-1], "state_new": stacks[1:], "task": np.arange(36)}
        return buffer_of(first, 36, more=more, **kind)

    parts = {filled(0): 1, filled(1000, **options): 1}
    for keys in (["id", "state_new"], ["state", "reward", "id"]):
        batch = Mixture(parts, keys=keys, seed=0).sample((3, 50))
        assert [key for key in batch if key not in ("index", "weight", "source")] == keys
        if "state" in batch:
            assert np.array_equal(batch["state"], stacks[batch["id"] % 1000])
        else:
            assert np.array_equal(batch["state_new"], stacks[1 + batch["id"] % 1000])


class Middle(Sampler):
    """Draws the rows of the middle, and says so in a column of its own."""

    def __init__(self, says=True):
        self.says = says

    def batch_spec(self, spec):
        return spec | {"says": ColumnSpec(np.dtype(np.int16))} if self.says else spec

    def draw(self, ring, shape, beta=None):
        numbers = 30 + ring.draw_below(20, shape[-1])
        return numbers, {"says": (numbers % 7).astype(np.int16)} if self.says else {}


def test_a_sampler_of_ones_own_draws_no_removed_row_and_adds_its_columns(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "middle", Middle)
    own = buffer_of(0, 80, sampler=("middle", {"says": False}))
    own.remove(np.arange(40, 80))
    ids = Mixture({own: 1, buffer_of(): 1}, seed=0).sample(400)["id"][:200]
    assert set(ids) == set(range(30, 40))
    parts = [buffer_of(0, 80, sampler="middle"), buffer_of(0, 80, 80, 1, sampler="middle")]
    batch = Mixture([(part, 1) for part in parts], seed=0).sample(50)
    assert np.array_equal(batch["says"], batch["id"] % 7)


def test_buffers_of_other_capacities_units_samplers_on_disk_and_in_memory(tmp_path):
    ends = {"terminal": np.zeros(30, np.float32), "episode_end": np.zeros(30, np.float32)}
    parts = [
        buffer_of(0, 30, 10, path=tmp_path / "folder", more=ends, n_step=3, gamma=0.5),
        buffer_of(1000, 30, 500, sampler=("newest", {"num_rows": 2}), more=ends),
        buffer_of(2000, 30, alpha=0.6, more=ends),
    ]
    mixture = Mixture([(part, 1) for part in parts], seed=0)
    assert mixture.missing == {"discount": [1, 2]}
    batch = mixture.sample(30)
    ids, reward = batch["id"], batch["reward"]
    assert (ids[10:20] >= 1028).all()
    assert np.allclose(reward[:10][ids[:10] < 28], (ids[:10] + (ids[:10] + 1) / 2 + (ids[:10] + 2) / 4)[ids[:10] < 28])
    assert np.array_equal(reward[10:], ids[10:])
    parts[0].close()
    with pytest.raises(ClosedError, match="closed"):
        mixture.sample(30)


def drawn(mixture, num, size=10):
    return [mixture.sample(size)["id"].tolist() for _ in range(num)]


@pytest.mark.parametrize("options", [{}, {"counts": "binomial"}])
def test_batches_and_datasets_are_those_of_sample(options):
    weights = (0.35, 0.65)
    expected = drawn(mixture_of(weights, **options), 8)
    with mixture_of(weights, **options).batches(10, prefetch=2) as batches:
        assert [next(batches)["id"].tolist() for _ in range(8)] == expected
    with mixture_of(weights, **options).batches(10, as_="tf", beta=lambda number: 0.5) as batches:
        assert [next(batches)["id"].numpy().tolist() for _ in range(8)] == expected
    mixture = mixture_of(weights, **options)
    found = [batch["id"].numpy().tolist() for batch in mixture.dataset(10, batches_per_call=1).take(8)]
    assert found == expected


def test_batches_that_were_drawn_ahead_are_given_back():
    mixture, expected = mixture_of((0.3, 0.7)), mixture_of((0.3, 0.7))
    with mixture.batches(5, prefetch=3) as batches:
        next(batches)
    drawn(expected, 1, 5)
    assert drawn(mixture, 5, 5) == drawn(expected, 5, 5)


@pytest.mark.parametrize("how", ["pickle", "state"])
def test_a_copy_draws_what_comes_next(how):
    mixture = mixture_of((0.3, 0.7))
    drawn(mixture, 3)
    if how == "pickle":
        again = pickle.loads(pickle.dumps(mixture))
    else:
        again = mixture_of((0.3, 0.7), seed=5)
        again.buffers[1].sampler.load_priorities(mixture.buffers[1].sampler.priorities.state_dict())
        again.load_state_dict(mixture.state_dict())
    assert drawn(again, 4) == drawn(mixture, 4)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (lambda number: number % 3, 1.0)])
@pytest.mark.parametrize("counts", ["exact", "binomial"])
@pytest.mark.parametrize("second", [{}, {"alpha": 0.6}], ids=["uniform", "prioritized"])
def test_a_number_of_rows_draws_what_one_batch_of_several_does(weights, counts, second):
    one, several = (mixture_of(weights, second, counts=counts, seed=7) for _ in range(2))
    for n in (1, 10, 33, 10, 256, 33):
        for _ in range(4):
            batch, batches = one.sample(n), several.sample((1, n))
            assert all(np.array_equal(batch[key], batches[key][0]) for key in batches)
    assert one.state_dict()["number"] == several.state_dict()["number"] == 24


def test_without_replacement():
    mixture = mixture_of((1, 1), {})
    batch = mixture.sample(60, replace=False)
    assert len(set(batch["id"].tolist())) == 60
    with pytest.raises(InvalidValueError, match="n: expected at most 30 rows with replace=False, got 31"):
        mixture.sample(62, replace=False)


def test_a_schema_may_come_with_the_first_rows():
    online = ReplayBuffer(10)
    mixture = Mixture({buffer_of(): 1, online: 1})
    assert mixture.batch_spec is None
    with pytest.raises(EmptyBufferError, match="sample: expected buffers that hold rows, got buffer 1 empty"):
        mixture.sample(4)
    online.put(rows(0, 3))
    assert mixture.sample(4)["id"].shape == (4,)
    online.clear()
    with pytest.raises(EmptyBufferError, match="sample: expected rows in every buffer that gives some, got buffer 1"):
        mixture.sample(4)


def test_a_buffer_of_weight_0_needs_no_rows():
    empty = ReplayBuffer(10)
    mixture = Mixture({buffer_of(): 1, empty: 0})
    assert list(mixture.batch_spec) == ["id", "reward", "source"]
    assert mixture.sample(4)["source"].tolist() == [0] * 4
    empty.put({"other": np.arange(3)})
    assert list(mixture.sample(4)) == ["id", "reward", "source"]
    assert Mixture({buffer_of(): 1, ReplayBuffer(10): lambda number: 0.0}).batch_spec is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a, b: Mixture({}), InvalidValueError, "Mixture: expected one buffer or more, got none"),
        (lambda a, b: Mixture({a: -1, b: 1}), InvalidValueError, "weight of buffer 0: expected a finite number >= 0"),
        (lambda a, b: Mixture({a: 0, b: 0}), InvalidValueError, r"expected a weight above 0, got \[0, 0\] for batch 0"),
        (
            lambda a, b: Mixture({a: 1e308, b: 1e308}),
            InvalidValueError,
            "expected weights of a finite sum, got .1e.308",
        ),
        (lambda a, b: Mixture({a: float("nan")}), InvalidValueError, "weight of buffer 0: expected a finite number"),
        (lambda a, b: Mixture({a: None}), InvalidTypeError, "weight of buffer 0: expected a finite number"),
        (lambda a, b: Mixture([a, b]), InvalidTypeError, "Mixture: expected buffer -> weight, or pairs"),
        (lambda a, b: Mixture({"a": 1}), InvalidTypeError, "Mixture: expected buffers with weights, got 'a'"),
        (lambda a, b: Mixture([(a, 1), (a, 1)]), InvalidValueError, "expected each buffer once, got one twice"),
        (lambda a, b: Mixture({a: 1}, counts="exakt"), InvalidValueError, "counts: expected one of"),
        (lambda a, b: Mixture({a: 1}, source="id"), InvalidValueError, r"expected no columns \['id'\]"),
        (lambda a, b: Mixture({b: 1}, source="weight"), InvalidValueError, "another name than those of priorities"),
        (lambda a, b: Mixture({a: 1}, keys=[]), InvalidValueError, "keys: expected one name or more"),
        (
            lambda a, b: Mixture({a: 1, ReplayBuffer(3, spec={"x": np.int8}): 1}),
            InvalidValueError,
            r"Mixture: expected buffers with a column in common, got \[\['id', 'reward'\], \['x'\]\]",
        ),
        (
            lambda a, b: Mixture({a: 1, ReplayBuffer(3, spec={"id": np.int8}): 1}),
            InvalidValueError,
            r"key 'id': expected one dtype and shape in all buffers, got int64 of shape \[\], int8 of shape \[\]",
        ),
        (lambda a, b: Mixture({a: 1}).sample(4, beta=0.4), InvalidValueError, "beta: expected none"),
        (lambda a, b: Mixture({a: 1, b: 1}).sample(4, replace=False), InvalidValueError, "replace: expected True"),
        (lambda a, b: Mixture({a: 1}).sample(0), InvalidValueError, "n: expected an integer from 1"),
        (lambda a, b: Mixture({a: 1}).update_priorities([0], [1.0]), InvalidValueError, "a mixture with a prioritized"),
        (
            lambda a, b: Mixture({b: 1}).update_priorities([0], [1.0, 2.0]),
            InvalidValueError,
            "expected integers and as many",
        ),
        (lambda a, b: Mixture({b: 1}).update_priorities([10**6], [1.0]), InvalidValueError, "expected rows that have"),
        (lambda a, b: Mixture({b: 1}).load_state_dict({"number": 1}), InvalidValueError, "state: expected what a mix"),
    ],
)
def test_what_cannot_be_used(make, error, message):
    with pytest.raises(error, match=message):
        make(buffer_of(), buffer_of(alpha=0.6))
