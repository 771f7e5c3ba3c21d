"""Compact batches: frames and indices, stacked again, are the batch of a buffer without `compact`, bit for bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really import InvalidTypeError, InvalidValueError, ReplayBuffer
from really.replay import Episodes, Mixture, Sequences, Transitions, stacked

SIDE = 18  # pixels: a stack of four has more than 1 kB


def unit_of(kind, compact):
    if kind == "transitions":
        return Transitions(compact=compact)
    return Sequences(7, burn_in=2, pad="pad" in kind, across_episodes="across" in kind, compact=compact)


KINDS = ["transitions", "sequences", "pad", "across", "pad across"]


class Games:
    """Agents whose observations are the newest four frames; an episode begins with its first frame four times, or with
    frames of zeros before it."""

    def __init__(self, num_agents, seed=0, end=0.15, zeros=False, stack=4):
        self.draw, self.end, self.zeros, self.stack = np.random.default_rng(seed), end, zeros, stack
        self.stacks = [None] * num_agents

    def frame(self):
        return self.draw.integers(0, 255, (SIDE, SIDE), np.uint8)

    def step(self, agent):
        if self.stacks[agent] is None:
            first = self.frame()
            before = np.zeros_like(first) if self.zeros else first
            self.stacks[agent] = np.stack([before] * (self.stack - 1) + [first])
        state = self.stacks[agent]
        after = np.concatenate([state[1:], self.frame()[None]])
        ends = self.draw.random() < self.end
        self.stacks[agent] = None if ends else after
        return {
            "state": state, "reward": np.float32(self.draw.normal()), "state_new": after,
            "terminal": np.float32(ends and self.draw.random() < 0.5), "not_done": np.float32(not ends),
            "agent": np.int32(agent),
        }  # fmt: skip

    def chunk(self, most=9):
        """A put: several steps of some agents, one agent's after the other's."""
        agents = self.draw.permutation(len(self.stacks))[: self.draw.integers(1, len(self.stacks) + 1)]
        rows = [self.step(agent) for agent in agents for _ in range(self.draw.integers(1, most + 1))]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def pair(kind, capacity=120, num_chunks=30, games=None, change=lambda rows: rows, **options):
    """Two buffers of the same rows and seed, of which the second gives compact batches."""
    games = games or Games(3)
    where = options.pop("path", None)
    buffers = [
        ReplayBuffer(
            capacity, unit=unit_of(kind, compact), seed=1, **options,
            **({} if where is None else {"path": where / str(compact)}),
        )
        for compact in (False, True)
    ]  # fmt: skip
    for _ in range(num_chunks):
        rows = change(games.chunk())
        for buffer in buffers:
            buffer.put(rows)
    return buffers


def assert_same(batch, expected):
    assert set(batch) == set(expected)
    for key, column in expected.items():
        assert (batch[key].dtype, batch[key].shape) == (column.dtype, column.shape), key
        assert batch[key].tobytes() == column.tobytes(), key


def assert_draws_same(plain, compact, axis=0, ways=((5,), (40,), ((3, 4),))):
    for (n,) in ways:
        assert_same(stacked(compact.sample(n), axis), plain.sample(n))
    indices = np.arange(len(plain))
    assert_same(stacked(compact.take(indices), axis), plain.take(indices))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    kind=st.sampled_from(KINDS),
    capacity=st.integers(12, 90),
    num_agents=st.integers(1, 4),
    num_chunks=st.integers(3, 12),
    end=st.sampled_from([0.0, 0.1, 0.5]),
    zeros=st.booleans(),
)
def test_whatever_is_held_is_the_same_bit_for_bit(seed, kind, capacity, num_agents, num_chunks, end, zeros):
    plain, compact = pair(kind, capacity, num_chunks, Games(num_agents, seed, end, zeros))
    assert plain._ring.shared
    indices = np.arange(len(plain))
    assert_same(stacked(compact.take(indices)), plain.take(indices))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_the_same_after_the_ring_has_wrapped_around(kind):
    plain, compact = pair(kind, games=Games(3, end=0.05))
    assert plain._ring.num_put > 2 * plain.capacity
    assert_draws_same(plain, compact)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_each_frame_of_a_window_once(kind):
    _, compact = pair(kind, games=Games(2, end=0.05))
    batch, steps = compact.sample(32), 1 if kind == "transitions" else 9
    frames, indices = batch["state_frames"], batch["state_indices"]
    assert (frames.dtype, indices.dtype) == (np.uint8, np.int32)
    if "across" not in kind:
        assert frames.shape == (32, steps + 4, SIDE, SIDE)
        assert compact.batch_spec["state_frames"].shape == frames.shape[1:]
    for window, own in zip(frames, indices.reshape(32, -1), strict=True):
        used = window[np.unique(own)]
        assert len(np.unique(used.reshape(len(used), -1), axis=0)) >= len(used) - (0 if "pad" not in kind else 1)
    assert {key: column.shape[1:] for key, column in batch.items() if "across" not in kind} == {
        key: spec.shape for key, spec in compact.batch_spec.items() if "across" not in kind
    }
    assert list(batch) == list(compact.batch_spec)


@pytest.mark.parametrize("room", [1, 7, 8, 9, 10, 13])
@pytest.mark.parametrize("num_steps", [0, 1, 9])
def test_stacked_tells_steps_and_frames_apart_if_there_are_as_many(num_steps, room):
    units = [
        Sequences(num_steps, pad=True, compact=compact) if num_steps else Transitions(compact=compact)
        for compact in (False, room)
    ]
    plain, compact = (ReplayBuffer(90, unit=unit, seed=1) for unit in units)
    games, found = Games(2, end=0.1), set()
    for _ in range(12):
        rows = games.chunk()
        for buffer in (plain, compact):
            buffer.put(rows)
    for age in range(len(plain)):
        batch = compact.take([age])
        assert_same(stacked(batch), plain.take([age]))
        found.add(batch["state_frames"].shape[1])
    assert num_steps not in found
    assert num_steps < 9 or room > 10 or 10 in found, "a window needs nine or ten"
    assert_draws_same(plain, compact)
    assert compact.batch_spec["state_frames"].shape[0] == room + (room == num_steps)


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_steps_may_be_cut_off_but_not_to_as_many_as_there_are_frames(shape):
    units = (Sequences(20, pad=True, compact=compact) for compact in (False, 14))
    plain, compact = (ReplayBuffer(90, unit=unit, seed=1) for unit in units)
    games = Games(2, end=0.1)
    for _ in range(12):
        rows = games.chunk()
        for buffer in (plain, compact):
            buffer.put(rows)
    n = shape if len(shape) == 2 else shape[0]
    batch, whole = compact.sample(n), plain.sample(n)
    num_frames = batch["state_frames"].shape[len(shape)]
    assert num_frames < 20
    lead = (slice(None),) * len(shape)

    def cut(columns, steps):
        return {key: column if "_frames" in key else column[(*lead, steps)] for key, column in columns.items()}

    for steps in (slice(num_frames - 1), slice(num_frames + 1), slice(3, 9), slice(7, 8)):
        assert_same(stacked(cut(batch, steps)), cut(whole, steps))
    with pytest.raises(
        InvalidValueError, match=f"stacked: 'state': expected more or fewer .* got {num_frames} of both"
    ):
        stacked(cut(batch, slice(num_frames)))
    if len(shape) == 1:
        assert_same(stacked(cut(batch, 6)), cut(whole, 6))


def channels_last(rows):
    return {key: np.ascontiguousarray(np.moveaxis(column, 1, -1)) if column.ndim > 1 else column
            for key, column in rows.items()}  # fmt: skip


def one_frame(rows):
    return {key: np.repeat(column[:, -1], 5, axis=1) if column.ndim > 1 else column for key, column in rows.items()}


def cameras(rows):
    left = {key.replace("state", "obs") + ".left" if "state" in key else key: column for key, column in rows.items()}
    renamed = {"obs.left": "state.left", "obs_new.left": "state_new.left"}
    both = {renamed.get(key, key): column for key, column in left.items()}
    return both | {"state.right": 255 - both["state.left"], "state_new.right": 255 - both["state_new.left"]}


def without_next(rows):
    return {key: column for key, column in rows.items() if key != "state_new"}


@pytest.mark.parametrize("kind", ["transitions", "pad", "across"])
@pytest.mark.parametrize(
    ("change", "options", "axis"),
    [
        (channels_last, {"stack": (4, -1)}, -1),
        (channels_last, {"stack": (4, 2)}, {"state": 2, "state_new": -1}),
        (one_frame, {}, 0),
        (cameras, {}, 0),
        (without_next, {}, 0),
    ],
)
def test_forms_of_observations(kind, change, options, axis):
    plain, compact = pair(kind, num_chunks=12, change=change, **options)
    assert plain._ring.shared
    assert_draws_same(plain, compact, axis)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_share_no_frames_stay_as_they_are(kind):
    plain, compact = pair(kind, num_chunks=12, dedup=False)
    assert list(compact.sample(3)) == list(plain.sample(3))
    assert_draws_same(plain, compact)


def test_rows_whose_frames_do_not_overlap_make_a_batch_longer():
    draw = np.random.default_rng(0)
    rows = {"state": draw.integers(0, 255, (50, 4, SIDE, SIDE), np.uint8), "terminal": np.ones(50, np.float32)}
    rows["state_new"] = rows["state"][::-1].copy()
    buffer = ReplayBuffer(50, unit=Transitions(compact=True), seed=0)
    buffer.put(rows)
    batch = buffer.sample(16)
    assert batch["state_frames"].shape == (16, 8, SIDE, SIDE)
    assert_same(stacked(buffer.take(np.arange(50))), rows)
    with pytest.raises(Exception, match=r"dataset: key 'state_frames': expected .*compact=8 gives each row room"):
        next(iter(buffer.dataset(16)))
    with pytest.raises(InvalidValueError, match=r"Mixture: key 'state_frames': expected .*compact=8 gives each row"):
        Mixture({buffer: 1.0}, seed=0).sample(16)
    roomy = ReplayBuffer(50, unit=Transitions(compact=9), seed=0)
    roomy.put(rows)
    assert roomy.sample(16)["state_frames"].shape == (16, 9, SIDE, SIDE)
    assert not roomy.sample(16)["state_frames"][:, 8].any()
    assert next(iter(roomy.dataset(16)))["state_frames"].shape == (16, 9, SIDE, SIDE)


def test_equal_frames_that_are_stored_twice_need_no_more_room():
    """The search for equal frames looks back at most so many rows: here another agent's rows come between."""
    frames = np.random.default_rng(0).integers(0, 255, (31, 40, 40), np.uint8)
    buffer = ReplayBuffer(9000, unit=Sequences(20, compact=True), seed=0)
    agents = {"state": frames[:-1], "state_new": frames[1:], "terminal": np.zeros(30, np.float32)}
    other = {key: np.zeros((6000, *column.shape[1:]), column.dtype) for key, column in agents.items()}
    buffer.put({**{key: column[:15] for key, column in agents.items()}, "agent": np.zeros(15, np.int32)})
    buffer.put({**other, "agent": np.ones(6000, np.int32)})
    buffer.put({**{key: column[15:] for key, column in agents.items()}, "agent": np.zeros(15, np.int32)})
    batch = buffer.take([3])
    assert batch["state_frames"].shape == (1, 21, 40, 40)
    np.testing.assert_array_equal(stacked(batch)["state"][0], frames[3:23])


@pytest.mark.parametrize("kind", ["transitions", "pad"])
def test_priorities_and_other_samplers(kind):
    for options in ({"alpha": 0.6}, {"sampler": ("newest", {"num_rows": 50})}, {"sampler": "ere"}):
        plain, compact = pair(kind, num_chunks=12, **options)
        for buffer in (plain, compact):
            if "alpha" in options:
                buffer.update_priorities(buffer.numbers(), np.arange(len(buffer)) + 1.0)
        assert_same(stacked(compact.sample(20)), plain.sample(20))


@pytest.mark.parametrize("kind", ["transitions", "pad"])
@pytest.mark.parametrize("way", ["pickle", "save", "folder", "reader"])
def test_what_is_made_again_draws_the_same(kind, way, tmp_path):
    plain, compact = pair(kind, path=tmp_path) if way in ("folder", "reader") else pair(kind)
    if way == "pickle":
        compact = pickle.loads(pickle.dumps(compact))
    elif way == "save":
        compact.save(tmp_path / "saved")
        compact = ReplayBuffer.load(tmp_path / "saved")
    elif way == "folder":
        compact.close()
        compact = ReplayBuffer.open(tmp_path / "True", "r+")
    else:
        compact.flush()
        state = compact.state_dict()
        compact = ReplayBuffer.open(tmp_path / "True")
        compact.load_state_dict(state)
    assert_draws_same(plain, compact)


def test_removed_rows_and_the_newest_ones():
    plain, compact = pair("pad")
    for buffer in (plain, compact):
        buffer.remove(buffer.numbers()[::5])
    assert_draws_same(plain, compact)


@pytest.mark.parametrize("kind", ["transitions", "pad"])
@pytest.mark.parametrize(
    ("as_", "package"), [("numpy", "numpy"), ("tf", "tensorflow"), ("torch", "torch"), ("jax", "jax")]
)
@pytest.mark.parametrize("last", [False, True])
def test_batches_of_each_library(kind, as_, package, last):
    pytest.importorskip(package)
    change, options = (channels_last, {"stack": (4, -1)}) if last else (lambda rows: rows, {})
    plain, compact = pair(kind, num_chunks=12, change=change, **options)
    axis = -1 if last else 0
    for n in (6, (2, 5)):
        with compact.batches(n, as_=as_, prefetch=0) as batches:
            batch = stacked(next(batches), axis)
        expected = plain.sample(n)
        assert set(batch) == set(expected)
        for key, column in expected.items():
            assert type(batch[key]).__module__.partition(".")[0].startswith(package[:3])
            np.testing.assert_array_equal(np.asarray(batch[key]), column)


def test_stacking_works_inside_compiled_functions():
    import tensorflow as tf

    plain, compact = pair("pad", num_chunks=12)
    dataset = compact.dataset(6, prefetch=0, batches_per_call=1)
    assert dataset.element_spec["state_frames"].shape == (6, 13, SIDE, SIDE)
    (batch,) = dataset.map(stacked).take(1)
    assert_same({key: column.numpy() for key, column in batch.items()}, plain.sample(6))
    unknown = {"state_frames": tf.TensorSpec((None, 13, SIDE, SIDE), tf.uint8),
               "state_indices": tf.TensorSpec((None, 9, 4), tf.int32)}  # fmt: skip
    compiled = tf.function(lambda batch: stacked(batch)["state"], input_signature=[unknown], jit_compile=True)
    drawn = compact.sample(6)
    whole = compiled({key: tf.constant(drawn[key]) for key in unknown})
    np.testing.assert_array_equal(whole.numpy(), stacked(drawn)["state"])


def test_mixtures_of_compact_buffers():
    (plain, compact), (other, other_compact) = pair("transitions"), pair("transitions", games=Games(2, seed=5))
    expected = Mixture({plain: 0.5, other: 0.5}, seed=0).sample(20)
    assert_same(stacked(Mixture({compact: 0.5, other_compact: 0.5}, seed=0).sample(20)), expected)


def test_batches_without_frames_stay_as_they_are():
    plain, _ = pair("pad", num_chunks=4)
    batch = plain.sample(3) | {"own_frames": np.zeros(3)}
    assert_same(stacked(batch), batch)


def test_a_batch_without_its_frames_and_an_axis_that_rows_lack():
    _, compact = pair("transitions", num_chunks=4)
    batch = compact.sample(3)
    with pytest.raises(InvalidValueError, match=r"axis: expected one of the 3 axes of a row of 'state', got 3"):
        stacked(batch, 3)
    del batch["state_frames"]
    with pytest.raises(InvalidValueError, match=r"stacked: expected frames of 'state' among the columns, got \["):
        stacked(batch)


@pytest.mark.parametrize(
    ("compact", "error", "message"),
    [
        ("yes", InvalidTypeError, "compact: expected True, False or how many frames a row has room for, got 'yes'"),
        (0, InvalidValueError, "compact: expected room for 1 frame or more, got 0"),
        (-3, InvalidValueError, "compact: expected room for 1 frame or more, got -3"),
    ],
)
def test_arguments_that_cannot_be_used(compact, error, message):
    for make in (Transitions, lambda compact: Sequences(3, compact=compact)):
        with pytest.raises(error, match=message):
            make(compact=compact)


def test_units_that_have_no_compact_form_refuse_it():
    with pytest.raises(InvalidTypeError, match="unit: expected options of 'n_step'"):
        ReplayBuffer(10, unit=("n_step", {"n_step": 3, "gamma": 0.9, "compact": True}))
    with pytest.raises(InvalidValueError, match="unit: expected none with n_step=3, which makes one"):
        ReplayBuffer(10, n_step=3, gamma=0.9, unit=Transitions(compact=True))
    with pytest.raises(InvalidTypeError, match="unit: expected options of 'episodes'"):
        ReplayBuffer(10, unit=("episodes", {"compact": True}))
    assert "compact" not in Episodes().options()


def test_a_column_of_the_name_of_an_added_one_is_refused():
    rows = Games(1).chunk()
    rows["state_frames"] = rows["reward"]
    buffer = ReplayBuffer(10, unit=Transitions(compact=True))
    with pytest.raises(InvalidValueError, match=r"compact: expected no keys \['state_frames'\]"):
        buffer.put(rows)
    assert (len(buffer), buffer.spec) == (0, None)
    assert ReplayBuffer(10, unit=Transitions()).options == ReplayBuffer(10).options
