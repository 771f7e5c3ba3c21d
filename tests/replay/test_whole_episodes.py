"""Episodes as a table and as a sample unit, against the slow reference of trajectories."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.replay import Episodes, unpadded
from tests.episodes import Reference, World, concatenated
from tests.sampling_checks import assert_uniform


def filled(unit=None, capacity=300, num_chunks=40, seed=0, **options):
    """A buffer that has wrapped, its rows, and the reference."""
    world = World(3, seed, end_probability=0.15, loss_probability=0.01)
    buffer = ReplayBuffer(capacity, unit=unit, seed=seed, **options)
    chunks = [world.any_chunk() for _ in range(num_chunks)]
    for chunk in chunks:
        buffer.put(chunk)
    rows = concatenated(chunks)
    return buffer, rows, Reference(rows, capacity)


def whole_episodes(reference):
    return [episode for episode in reference.episodes() if reference.is_whole(episode)]


@pytest.mark.parametrize("num_chunks", [5, 40])
def test_the_table_of_episodes(num_chunks):
    buffer, rows, reference = filled(num_chunks=num_chunks)
    for _ in range(2):
        table, episodes = buffer.episodes(), reference.episodes()
        assert table["first"].to_pylist() == [episode[0] for episode in episodes]
        assert table["last"].to_pylist() == [episode[-1] for episode in episodes]
        assert table["length"].to_pylist() == [len(episode) for episode in episodes]
        assert table["agent"].to_pylist() == [rows["agent"][episode[0]] for episode in episodes]
        assert table["whole"].to_pylist() == [reference.is_whole(episode) for episode in episodes]
        assert table["begins"].to_pylist() == [episode[0] in reference.first for episode in episodes]
        assert table["ends"].to_pylist() == [bool(reference.ends[episode[-1]]) for episode in episodes]
        returns = [rows["reward"][episode].sum(dtype=np.float64) for episode in episodes]
        np.testing.assert_allclose(table["return"].to_numpy(), returns)
        chunk = World(1).chunk([(0, 9)]) | {"agent": np.full(9, 7, np.int32)}
        buffer.put(chunk)
        rows = concatenated([rows, chunk])
        reference = Reference(rows, 300)


def test_agents_that_several_columns_name():
    rows = {
        "terminal": np.zeros(6, np.float32), "runner": np.array([0, 0, 1, 1, 0, 1]),
        "place": np.array([[1.5, 2]] * 6, np.float32),
    }  # fmt: skip
    buffer = ReplayBuffer(6)
    buffer.put(rows)
    table = buffer.episodes(agent=["runner", "place"])
    assert table.column_names == ["first", "last", "length", "runner", "place", "begins", "ends", "whole"]
    assert table["runner"].to_pylist() == [0, 1]
    assert table["place"].to_pylist() == [[1.5, 2], [1.5, 2]]
    assert table["length"].to_pylist() == [3, 3]


def test_what_has_no_episodes():
    with pytest.raises(EmptyBufferError, match="episodes: expected a buffer that has had rows"):
        ReplayBuffer(5).episodes()
    buffer = ReplayBuffer(5)
    buffer.put({"reward": [1.0]})
    with pytest.raises(InvalidValueError, match="episodes: expected one of the keys"):
        buffer.episodes()


def assert_whole(batch, rows, reference):
    episodes = {episode[0]: episode for episode in whole_episodes(reference)}
    for episode in unpadded(batch):
        numbers = episode["number"].tolist()
        assert numbers == episodes[numbers[0]]
        assert episode["is_first"].tolist() == [1.0] + [0.0] * (len(numbers) - 1)
        for key, column in rows.items():
            assert episode[key].tobytes() == column[numbers].tobytes()
    np.testing.assert_array_equal(batch["mask"], batch["number"] >= 0)
    assert not batch["state"][batch["number"] < 0].any()


@pytest.mark.parametrize("by", ["episodes", "steps"])
def test_whole_episodes_are_drawn_evenly_or_by_their_length(by):
    buffer, rows, reference = filled(Episodes(by=by))
    assert_whole(buffer.sample(50), rows, reference)
    episodes = whole_episodes(reference)
    place = {episode[0]: at for at, episode in enumerate(episodes)}
    first = np.concatenate([buffer.sample(64)["number"][:, 0] for _ in range(200)])
    counts = np.bincount([place[number] for number in first.tolist()], minlength=len(episodes))
    lengths = [len(episode) for episode in episodes]
    assert_uniform(counts, lengths if by == "steps" else None)
    with pytest.raises(AssertionError, match="not uniform"):
        assert_uniform(counts, None if by == "steps" else lengths)


def test_an_episode_that_loses_its_first_row_is_not_whole():
    world = World(1, end_probability=0.0)
    ends = np.arange(12) % 4 == 3
    rows = world.chunk([(0, 12)]) | {"not_done": (~ends).astype(np.float32)}
    for by in ("episodes", "steps"):
        buffer = ReplayBuffer(12, unit=Episodes(by=by), seed=0)
        buffer.put(rows)
        assert {episode["number"][0] for episode in unpadded(buffer.sample(100))} == {0, 4, 8}
        buffer.put({key: column[:1] for key, column in rows.items()})
        # The row that ended the episode before the second one is held until number 3 drops out.
        assert {episode["number"][0] for episode in unpadded(buffer.sample(100))} == {4, 8}
        buffer.put({key: column[:3] for key, column in rows.items()})
        assert {episode["number"][0] for episode in unpadded(buffer.sample(100))} == {8}


def test_a_length_makes_batches_of_one_shape(tmp_path):
    buffer, rows, reference = filled(("episodes", {"length": 60}), path=tmp_path)
    assert buffer.sample((2, 3))["state"].shape == (2, 3, 60, 2)
    (batch,) = buffer.dataset(4).take(1)
    assert_whole({key: column.numpy() for key, column in batch.items()}, rows, reference)
    again = pickle.loads(pickle.dumps(buffer))
    np.testing.assert_array_equal(again.sample(9)["number"], buffer.sample(9)["number"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 0}, InvalidValueError, "length: expected an integer"),
        ({"by": "step"}, InvalidValueError, "by: expected one of .*got 'step'. Did you mean 'steps'"),
        ({"checks_states": 0}, InvalidTypeError, "checks_states: expected True or False, got 0"),
    ],
)
def test_arguments_that_cannot_be_used(options, error, message):
    with pytest.raises(error, match=message):
        Episodes(**options)


def test_what_cannot_be_drawn():
    buffer, _, _ = filled(Episodes(3))
    with pytest.raises(InvalidValueError, match="episodes: expected at most length=3 steps, got one of"):
        buffer.sample(50)
    with pytest.raises(InvalidValueError, match="episodes: expected length=, which batches of a fixed shape need"):
        filled(Episodes())[0].dataset(2)
    buffer = ReplayBuffer(9, unit="episodes")
    buffer.put(World(1, end_probability=0.0).chunk([(0, 5)]))
    with pytest.raises(EmptyBufferError, match="sample: expected a whole episode, got none among 1 parts of some"):
        buffer.sample(1)
    with pytest.raises(InvalidValueError, match=r"unpadded: expected a batch \[n, length, ...\] with 'number'"):
        unpadded({"state": np.zeros(3)})
