"""A sampler and a sample unit of your own: a class and a line in a list, and all of the buffer uses them."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ShardedBuffer
from really.replay import SAMPLERS, UNITS, NewestSampler, ReplayBuffer, Sampler, SampleUnit
from tests.service.test_units_in_shards import hindsight, sequences, stacks, steps


class NewestFirst(Sampler):
    """The newest rows, newest first."""

    def draw(self, ring, shape, beta=None):
        oldest, newest = ring.held_rows()
        ages = np.arange(shape[-1]) % (newest - oldest)
        return np.broadcast_to(newest - 1 - ages, shape).copy(), {}


class Every(NewestFirst):
    """The newest of every `step` rows."""

    def __init__(self, step=2):
        self.step = step

    def options(self):
        return {"step": self.step}

    def draw(self, ring, shape, beta=None):
        numbers, added = super().draw(ring, (shape[-1] * self.step,))
        return np.broadcast_to(numbers[:: self.step], shape).copy(), added


class RowAndAge(SampleUnit):
    """A transition, and how many rows were put after it."""

    in_ring = False

    def batch_spec(self, spec):
        return spec | {"age": (np.dtype(np.int64), ())}

    def take(self, ring, numbers):
        batch = super().take(ring, numbers)
        return batch and batch | {"age": ring.num_put - 1 - numbers}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "newest", NewestFirst)
    monkeypatch.setitem(SAMPLERS, "every", Every)
    monkeypatch.setitem(UNITS, "row_and_age", RowAndAge)


def filled(**options):
    buffer = ReplayBuffer(100, seed=0, **options)
    for rows in np.split(np.arange(150), 2):
        buffer.put({"row": rows, "reward": np.zeros(75, np.float32)})
    return buffer


def test_a_sampler_picks_the_rows():
    buffer = filled(sampler="newest")
    assert buffer.sample(3)["row"].tolist() == [149, 148, 147]
    assert buffer.sample((2, 3))["row"].tolist() == [[149, 148, 147]] * 2
    buffer.put({"row": [7], "reward": [0.0]})
    assert buffer.sample(2)["row"].tolist() == [7, 149]


def test_a_unit_makes_the_rows_of_a_batch():
    buffer = filled(sampler=NewestFirst(), unit=RowAndAge())
    batch = buffer.sample((2, 2))
    assert batch["row"].tolist() == [[149, 148]] * 2
    assert batch["age"].tolist() == [[0, 1]] * 2
    assert buffer.take([0, 99])["age"].tolist() == [99, 0]
    assert list(buffer.batch_spec) == ["row", "reward", "age"]


def test_a_unit_works_with_the_samplers_there_are():
    drawn, expected = filled(unit="row_and_age"), filled()
    for _ in range(5):
        batch = drawn.sample(16)
        assert batch["row"].tolist() == expected.sample(16)["row"].tolist()
        assert batch["age"].tolist() == [149 - row for row in batch["row"]]
    batch = filled(unit="row_and_age", alpha=0.6).sample(8)
    assert batch["age"].tolist() == [149 - number for number in batch["index"]]


def test_batches_and_datasets_use_them():
    buffer = filled(sampler="newest", unit="row_and_age")
    with buffer.batches(2) as batches:
        assert next(batches)["age"].tolist() == [0, 1]
    (batch,) = buffer.dataset(2).take(1)
    assert batch["row"].numpy().tolist() == [149, 148]
    assert batch["age"].numpy().tolist() == [0, 1]


@pytest.mark.parametrize("how", ["pickle", "save", "folder"])
def test_what_is_made_again_has_them(how, tmp_path):
    where = {"path": tmp_path / "folder"} if how == "folder" else {}
    buffer = filled(sampler=Every(3), unit="row_and_age", **where)
    if how == "pickle":
        again = pickle.loads(pickle.dumps(buffer))
    elif how == "save":
        buffer.save(tmp_path / "saved")
        again = ReplayBuffer.load(tmp_path / "saved")
    else:
        buffer.close()
        again = ReplayBuffer.open(tmp_path / "folder", "r+")
    assert again.options.sampler == ("every", {"step": 3})
    batch = again.sample(2)
    assert batch["row"].tolist() == [149, 146]
    assert batch["age"].shape == (2,)


def test_a_folder_of_another_sampler_is_refused(tmp_path):
    filled(sampler="newest", path=tmp_path).close()
    with pytest.raises(InvalidValueError, match=r"sampler, unit: expected .*newest.* as the buffer at"):
        ReplayBuffer(100, path=tmp_path)


def test_arguments_of_the_buffer_reach_a_sampler_and_a_unit_that_are_given_by_name():
    buffer = ReplayBuffer(
        9, sampler=("prioritized", {"alpha": 0.5}), eps=0.25, unit=("n_step", {"n_step": 3}), gamma=0.5
    )
    options = buffer.options
    assert (options.alpha, options.eps, options.n_step, options.gamma) == (0.5, 0.25, 3, 0.5)
    assert (buffer.sampler.alpha, buffer.sampler.eps) == (0.5, 0.25)
    options = ReplayBuffer(9, sampler="prioritized", unit=("n_step", {"gamma": 0.5}), n_step=2).options
    assert (options.alpha, options.eps, options.n_step, options.gamma) == (0.6, 1e-6, 2, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": ("prioritized", {"eps": 0.1}), "eps": 0.2}, r"eps: expected none with that of sampler=\("),
        ({"unit": ("n_step", {"n_step": 3, "gamma": 0.5}), "n_step": 2}, r"n_step: expected none with that of unit=\("),
        ({"unit": ("n_step", {"n_step": 3, "gamma": 0.5}), "gamma": 0.9}, r"gamma: expected none with that of unit=\("),
        (
            {"sampler": ("prioritized", {"beta": 0.4})},
            r"sampler: expected options of 'prioritized' \(alpha, eps\), got",
        ),
        (
            {"unit": ("n_step", {"steps": 3})},
            r"unit: expected options of 'n_step' \(n_step, gamma\), got \{'steps': 3\}",
        ),
    ],
)
def test_an_option_that_is_given_twice_or_unknown_is_refused(options, message):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        ReplayBuffer(9, **options)


def test_the_names_of_what_there_is():
    assert filled(sampler="uniform", unit="transition").options == filled().options
    assert filled(sampler=("prioritized", {"alpha": 0.5})).options.alpha == 0.5
    steps = {"n_step": 3, "gamma": 0.9}
    buffer = ReplayBuffer(5, unit=("n_step", steps))
    assert (buffer.n_step, buffer.gamma) == (3, 0.9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sampler": "newst"}, InvalidValueError, "sampler: expected one of .* got 'newst'. Did you mean 'newest'"),
        ({"unit": 3}, InvalidTypeError, "unit: expected a name or an instance of a registered class"),
        ({"sampler": "newest", "alpha": 0.5}, InvalidValueError, "sampler: expected none with alpha=0.5"),
        ({"unit": "row_and_age", "n_step": 3, "gamma": 0.9}, InvalidValueError, "unit: expected none with n_step=3"),
        ({"sampler": ("every", {"stop": 1})}, InvalidTypeError, "sampler: expected options of 'every', got .*stop"),
    ],
)
def test_what_cannot_be_used_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(5, **options)


@pytest.mark.parametrize("options", [{"sampler": "newest"}, {"unit": "row_and_age"}])
def test_arguments_and_states_that_they_cannot_use(options):
    buffer = filled(**options)
    with pytest.raises(InvalidValueError, match="out: expected none for a buffer whose batches have more"):
        buffer.sample(2, out={})
    with pytest.raises(InvalidValueError, match="beta: expected none"):
        buffer.sample(2, beta=0.4)
    with pytest.raises(EmptyBufferError, match="sample: expected a buffer that holds rows"):
        ReplayBuffer(5, **options).sample(2)


DISTINCT = {
    "transitions": (steps, {}),
    "transitions, newest": (steps, {"sampler": ("newest", {"num_rows": 30})}),
    "compact": (stacks, {"unit": ("transition", {"compact": True})}),
    "compact, newest": (stacks, {"unit": ("transition", {"compact": True}), "sampler": ("newest", {"num_rows": 30})}),
    "n steps": (steps, {"n_step": 3, "gamma": 0.9, "keys": ["id", "reward", "terminal", "episode_end"]}),
    "sequences": (steps, sequences()),
    "sequences, padded": (steps, sequences(pad=True)),
    "compact sequences": (stacks, sequences(compact=True)),
    "episodes": (steps, {"unit": "episodes"}),
    "hindsight": (steps, hindsight()),
    "hindsight, newest": (steps, {**hindsight(), "sampler": ("newest", {"num_rows": 30})}),
    "a unit of the user": (steps, {"unit": "row_and_age"}),
}
PLACES = ("memory", "disk", "shards", "shards on disk")
WHERE_DISTINCT = [  # shards give no compact batches
    (kind, place) for kind in DISTINCT for place in PLACES if "compact" not in kind or "shards" not in place
]


def first_ids(batch):
    """The row that each row of the batch was made of, [n] or [k, n]; the first one of a window."""
    ids = batch["id"]
    return ids[..., 0] if "number" in batch else ids


@pytest.mark.parametrize(("kind", "place"), WHERE_DISTINCT)
def test_no_row_comes_twice_without_replacement(kind, place, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLERS, "newest", NewestSampler)
    make, options = DISTINCT[kind]
    where = {"path": tmp_path / "rows"} if "disk" in place else {}
    kind_of_buffer = partial(ShardedBuffer, shards=3) if "shards" in place else ReplayBuffer
    buffer = kind_of_buffer(90, seed=3, **where, **options)
    for first in range(0, 120, 40):
        rows = make(first, 40)
        buffer.put({**rows, "episode_end": rows["terminal"].astype(np.float32)} if kind == "n steps" else rows)
    for removed in ((), (110, 111, 113)):
        buffer.remove(list(removed))
        chosen = np.unique(first_ids(buffer.sample(3000)))
        for n in (len(chosen), max(1, len(chosen) // 2)):
            for shape in (n, (4, n)):
                ids = first_ids(buffer.sample(shape, replace=False)).reshape(-1, n)
                assert all(len(np.unique(row)) == n for row in ids)
                assert n < len(chosen) or (np.sort(ids, axis=1) == chosen).all()
        for shape in (len(chosen) + 1, (2, len(chosen) + 1)):
            with pytest.raises(InvalidValueError, match=f"n: expected at most {len(chosen)} rows with replace=False"):
                buffer.sample(shape, replace=False)
    if where:
        buffer.close()


@pytest.mark.parametrize("kind", ["hindsight", "hindsight, newest", "a unit of the user"])
def test_rows_that_no_shard_has_are_not_drawn_without_replacement(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLERS, "newest", NewestSampler)
    make, options = DISTINCT[kind]
    with ShardedBuffer(90, shards=3, seed=3, path=tmp_path, **options) as buffer:
        buffer.put(make(0, 90))
    with ShardedBuffer(90, shards=2, seed=3, path=tmp_path, **options) as buffer:
        held = buffer.numbers()
        assert 0 < len(held) < 90
        held = held[-30:] if "newest" in kind else held  # the newest of the rows that can be had
        n = len(held)
        assert np.array_equal(np.sort(buffer.sample((3, n), replace=False)["id"], axis=1), [held] * 3)
        ages = np.arange(len(buffer) - n, len(buffer))
        assert np.array_equal(np.sort(buffer.sample_indices((3, n), replace=False), axis=1), [ages] * 3)
        with pytest.raises(InvalidValueError, match=f"n: expected at most {n} rows with replace=False"):
            buffer.sample(n + 1, replace=False)
