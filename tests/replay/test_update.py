"""Columns of rows that are held are written: the rows named, all of a call or nothing, and indices follow."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.replay.trajectories import Trajectories
from tests.episodes import World
from tests.sampling_checks import assert_uniform


def rows(first, num):
    number = np.arange(first, first + num)
    state = {"hidden": np.zeros((num, 3), np.float32), "task": number % 3, "reward": number.astype(np.float32)}
    return {"number_put": number, **state}


def filled(num=150, capacity=100, **options):
    buffer = ReplayBuffer(capacity, seed=0, **options)
    for first in range(0, num, 25):
        buffer.put(rows(first, min(25, num - first)))
    return buffer


def everything(buffer):
    return buffer.take(np.arange(len(buffer)))


def test_the_rows_named_are_written_and_no_others():
    buffer = filled()
    numbers = np.array([60, 149, 50, 101])
    assert buffer.update(numbers, {"hidden": np.arange(12).reshape(4, 3), "reward": [1, 2, 3, 4]}) == 4
    expected = everything(filled())
    places = numbers - 50
    expected["hidden"][places] = np.arange(12).reshape(4, 3)
    expected["reward"][places] = [1, 2, 3, 4]
    for got in (everything(buffer), everything(pickle.loads(pickle.dumps(buffer)))):
        for key, column in expected.items():
            np.testing.assert_array_equal(got[key], column)
    buffer.put(rows(150, 60))  # other rows take the places of some of them
    assert everything(buffer)["reward"].tolist() == [*range(110, 149), 2.0, *range(150, 210)]


def test_rows_that_dropped_out_or_are_removed_are_ignored():
    buffer = filled()
    buffer.remove([70])
    assert buffer.update([0, 49, 50, 70, 71], {"reward": [9.0] * 5}) == 2
    assert everything(buffer)["reward"].tolist() == [9, *range(51, 70), 9, *range(72, 150)]
    assert buffer.update([50, 50], {"reward": [1.0, 2.0]}) == 2
    assert everything(buffer)["reward"][0] == 2
    assert buffer.update([], {"reward": []}) == 0


def test_batches_of_sequences_are_written_as_they_came():
    world = World(2, 0, end_probability=0.05)
    buffer = ReplayBuffer(400, unit=("sequences", {"length": 4}), seed=0)
    for _ in range(20):
        chunk = world.any_chunk()
        buffer.put(chunk | {"hidden": np.zeros((len(chunk["reward"]), 5), np.float32)})
    batch = buffer.sample(6)
    hidden = np.random.default_rng(0).random((6, 4, 5), np.float32)
    assert buffer.update(batch["number"], {"hidden": hidden}) == 24
    index = buffer.numbers()
    stored = ReplayBuffer.from_arrow(buffer).take(np.arange(len(buffer)))["hidden"]
    last = dict(zip(batch["number"].ravel(), hidden.reshape(-1, 5), strict=True))
    for number, values in last.items():
        np.testing.assert_array_equal(stored[np.searchsorted(index, number)], values)


def test_what_follows_from_a_column_follows_its_new_values():
    buffer = filled(sampler=("stratified", {"column": "task"}))
    assert set(np.unique(buffer.sample(300)["task"])) == {0, 1, 2}
    numbers = buffer.numbers()
    buffer.update(numbers, {"task": np.full(len(numbers), 7)})
    assert set(np.unique(buffer.sample(300)["task"])) == {7}
    assert_uniform(np.bincount(buffer.sample(20_000)["number_put"] - numbers[0], minlength=len(numbers)))
    ends = {"terminal": np.zeros(30, np.float32), "reward": np.ones(30, np.float32)}
    buffer = ReplayBuffer(30, unit=("sequences", {"length": 3}), seed=0)
    buffer.put(ends)
    assert buffer.sample(500)["number"][:, 0].max() == 27
    buffer.update([9, 19], {"terminal": [1.0, 1.0]})
    assert buffer.episodes()["length"].to_pylist() == [10, 10, 10]
    assert set(buffer.sample(2000)["number"][:, 0]) == {*range(8), *range(10, 18), *range(20, 28)}


def test_columns_with_an_axis_of_no_values_are_written_as_the_others():
    buffer = ReplayBuffer(100)
    buffer.put({"none": np.zeros((20, 0, 3)), "task": np.arange(20)})
    assert buffer.update([1, 2], {"none": np.zeros((2, 0, 3)), "task": [50, 60]}) == 2
    assert buffer.update([[3], [4]], {"none": np.zeros((2, 1, 0, 3)), "task": [[70], [80]]}) == 2
    assert buffer.update([], {"none": np.zeros((0, 0, 3))}) == 0
    assert buffer.take([1, 2, 3, 4])["task"].tolist() == [50, 60, 70, 80]
    with pytest.raises(InvalidValueError, match=r"update: key 'none': expected shape \[2, 0, 3\], got \[2, 0, 4\]"):
        buffer.update([1, 2], {"none": np.zeros((2, 0, 4))})


def test_a_bad_update_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 255, (101, 32, 40), np.uint8)
    buffer = ReplayBuffer(100, seed=0)
    buffer.put(rows(0, 100) | {"state": frames[:-1], "state_new": frames[1:]})
    before = pickle.dumps(everything(buffer))
    for error, numbers, columns, message in (
        (InvalidValueError, [3], {"rewards": [1.0]}, "did you mean|expected one of"),
        (InvalidValueError, [3], {"reward": [[1.0]]}, r"'reward': expected shape \[1\], got \[1, 1\]"),
        (InvalidValueError, [3, 4], {"reward": [1.0]}, r"update: key 'reward': expected shape \[2\], got \[1\]"),
        (InvalidValueError, [3], {"reward": [1.0], "hidden": [[1.0, 2.0]]}, "update: key 'hidden'"),
        (InvalidTypeError, [3], {"reward": ["text"]}, "update: key 'reward'"),
        (InvalidValueError, [3], {"task": [2.0**70]}, "update"),
        (InvalidValueError, [3], {"state": frames[:1]}, "share frames.*dedup=False"),
        (InvalidValueError, [3, 100], {"reward": [1.0, 1.0]}, "from 0 to 99, got 100"),
        (InvalidValueError, [-1], {"reward": [1.0]}, "got -1"),
        (InvalidTypeError, [0.5], {"reward": [1.0]}, "integers"),
        (InvalidTypeError, [3], [1.0], "mapping"),
        (InvalidValueError, [3], {}, "update: expected a column or more, got none"),
    ):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=message) as raised:
            buffer.update(numbers, columns)
        assert isinstance(raised.value, error) or columns == {"task": [2.0**70]}
        assert pickle.dumps(everything(buffer)) == before
    with pytest.raises(EmptyBufferError):
        ReplayBuffer(5).update([0], {"reward": [1.0]})


def test_no_thread_sees_half_of_a_call():
    buffer = filled(200, 200)
    numbers, wrong, ended = buffer.numbers(), [], threading.Event()

    def look():
        while not ended.is_set():
            batch = everything(buffer)
            if len(np.unique(batch["hidden"])) > 1:
                wrong.append(batch["hidden"])

    thread = threading.Thread(target=look)
    thread.start()
    for value in range(300):
        buffer.update(numbers, {"hidden": np.full((200, 3), value, np.float32)})
    ended.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "unit",
    [
        ("sequences", {"length": 4, "pad": True}),
        ("sequences", {"length": 4, "pad": True, "compact": True}),
        ("episodes", {"length": 6}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"alpha": 0.6}])
@pytest.mark.parametrize("draw", [lambda buffer: buffer.sample(50), lambda buffer: buffer.take([0, 1, 2])])
def test_no_window_runs_across_an_end_that_another_thread_has_moved(unit, options, draw, monkeypatch):
    """The updates come between the look for the ends of episodes and the copy of the rows."""
    buffer = ReplayBuffer(6, unit=unit, seed=0, **options)
    images = np.zeros((7, 40, 40), np.uint8)
    buffer.put({"state": images[:-1], "state_new": images[1:], "terminal": np.array([0, 0, 0, 0, 0, 1], np.float32)})
    catch_up, updates = Trajectories._caught_up, [1.0, 0.0, 1.0, 0.0, 1.0]

    def caught_up(self):
        index = catch_up(self)
        if updates:
            buffer.update([2], {"terminal": [updates.pop()]})
        return index

    monkeypatch.setattr(Trajectories, "_caught_up", caught_up)
    batch = draw(buffer)
    inside = batch["number"][:, 1:] >= 0
    assert not updates
    assert not batch["terminal"][:, :-1][inside].any()
