"""N-step batches against a slow reference: ends, truncations, the newest row, the wrap-around, agents, frames."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really import InvalidTypeError, InvalidValueError, ReplayBuffer

KEYS = ("state", "reward", "state_new", "terminal", "episode_end")


def experience(num, seed=0, end_probability=0.25):
    """Rows of one agent: states count up, an end is a termination or a truncation."""
    draw = np.random.default_rng(seed)
    ends = draw.random(num) < end_probability
    terminal = ends & (draw.random(num) < 0.5)
    return {
        "state": np.arange(num, dtype=np.float32),
        "reward": draw.normal(size=num).astype(np.float32),
        "state_new": np.arange(num, dtype=np.float32) + 0.5,
        "terminal": terminal.astype(np.float32),
        "episode_end": ends.astype(np.float32),
    }


def reference(rows, at, n, gamma):
    """The values of a batch for row `at` of the rows held."""
    total, k = 0.0, 0
    while True:
        last = at + k
        total += gamma**k * float(rows["reward"][last])
        k += 1
        if k == n or rows["episode_end"][last] or last + 1 == len(rows["reward"]):
            break
    return {
        "state": rows["state"][at],
        "reward": total,
        "state_new": rows["state_new"][last],
        "terminal": rows["terminal"][last],
        "episode_end": rows["episode_end"][last],
        "discount": gamma**k * (1 - rows["terminal"][last]),
    }


def assert_steps(batch, rows, indices, n, gamma):
    expected = [reference(rows, at, n, gamma) for at in indices]
    for key in (*KEYS, "discount"):
        np.testing.assert_allclose(batch[key], [row[key] for row in expected], rtol=1e-5, atol=1e-6, err_msg=key)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    capacity=st.integers(1, 60),
    num=st.integers(1, 150),
    n=st.integers(2, 9),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    end=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    chunk=st.integers(1, 40),
)
def test_every_row_against_the_reference(seed, capacity, num, n, gamma, end, chunk):
    rows = experience(num, seed, end)
    buffer = ReplayBuffer(capacity, n_step=n, gamma=gamma, seed=0)
    for first in range(0, num, chunk):
        buffer.put({key: column[first : first + chunk] for key, column in rows.items()})
    held = {key: column[-capacity:] for key, column in rows.items()}
    indices = np.arange(len(buffer))
    assert_steps(buffer.take(indices), held, indices, n, gamma)
    batch = buffer.sample(20)
    assert_steps(batch, held, (batch["state"] - held["state"][0]).astype(int), n, gamma)


def test_a_table_by_hand():
    """Three steps, gamma 0.5: a truncation at row 2, a termination at row 5, the newest row is 7."""
    rows = experience(8)
    rows["reward"] = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.float32)
    rows["terminal"] = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.float32)
    rows["episode_end"] = np.array([0, 0, 1, 0, 0, 1, 0, 0], np.float32)
    buffer = ReplayBuffer(8, n_step=3, gamma=0.5)
    buffer.put(rows)
    batch = buffer.take(np.arange(8))
    np.testing.assert_array_equal(batch["reward"], [3, 4, 4, 24, 32, 32, 128, 128])
    np.testing.assert_array_equal(batch["discount"], [0.125, 0.25, 0.5, 0, 0, 0, 0.25, 0.5])
    np.testing.assert_array_equal(batch["state_new"], [2.5, 2.5, 2.5, 5.5, 5.5, 5.5, 7.5, 7.5])


def test_several_batches_and_no_row_twice():
    rows = experience(50)
    buffer = ReplayBuffer(50, n_step=3, gamma=0.9, seed=1)
    buffer.put(rows)
    batch = buffer.sample((4, 10), replace=False)
    assert batch["discount"].shape == (4, 10)
    for k in range(4):
        one = {key: column[k] for key, column in batch.items()}
        assert_steps(one, rows, one["state"].astype(int), 3, 0.9)
        assert len(set(one["state"])) == 10


def test_frames_stored_once():
    frames = np.random.default_rng(0).integers(0, 255, (104, 20, 20), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(101)])
    rows = experience(100, end_probability=0.1) | {"state": stacks[:-1], "state_new": stacks[1:]}
    buffer = ReplayBuffer(100, n_step=4, gamma=0.9)
    buffer.put(rows)
    assert buffer._ring.shared
    plain = ReplayBuffer(100, n_step=4, gamma=0.9, dedup=False)
    plain.put(rows)
    ours, theirs = buffer.take(np.arange(100)), plain.take(np.arange(100))
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    assert not np.array_equal(ours["state_new"], rows["state_new"])


def test_by_priority():
    rows = experience(80)
    buffer = ReplayBuffer(80, n_step=3, gamma=0.9, alpha=0.6, seed=0)
    buffer.put(rows)
    batch = buffer.sample(40, beta=0.4)
    assert_steps(batch, rows, batch["index"], 3, 0.9)
    assert batch["weight"].shape == (40,)


@pytest.mark.parametrize("way", ["save", "pickle", "disk"])
def test_rows_go_out_and_in_as_single_steps(tmp_path, way):
    rows = experience(60)
    options = {"n_step": 3, "gamma": 0.9}
    with ReplayBuffer(40, path=tmp_path / "b" if way == "disk" else None, **options) as buffer:
        buffer.put(rows)
        held = {key: column[-40:] for key, column in rows.items()}
        table = buffer.to_arrow().read_all()
        np.testing.assert_array_equal(table["reward"].to_numpy(), held["reward"])
        if way == "save":
            buffer.save(tmp_path / "saved")
            other = ReplayBuffer.load(tmp_path / "saved")
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(buffer))
        else:
            buffer.close()
            other = ReplayBuffer(40, path=tmp_path / "b", **options)
        assert_steps(other.take(np.arange(40)), held, np.arange(40), 3, 0.9)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, (3, 0.9)),
        ({"n_step": 5, "gamma": 0.5}, (5, 0.5)),
        ({"n_step": 5}, (5, 0.9)),
        ({"gamma": 0.5}, (3, 0.5)),
        ({"n_step": 1}, (1, None)),
    ],
)
def test_a_buffer_on_disk_is_opened_with_its_steps_or_others(tmp_path, mode, given, steps):
    rows = experience(40)
    with ReplayBuffer(40, path=tmp_path / "b", n_step=3, gamma=0.9) as buffer:
        buffer.put(rows)
    with ReplayBuffer.open(tmp_path / "b", mode, **given) as opened:
        copy = pickle.loads(pickle.dumps(opened))
        for other in (opened, copy):
            assert (other.n_step, other.gamma) == steps
            batch = other.take(np.arange(40))
            if steps[0] == 1:
                np.testing.assert_array_equal(batch["reward"], rows["reward"])
            else:
                assert_steps(batch, rows, np.arange(40), *steps)


def test_other_steps_of_a_buffer_on_disk_are_refused_not_taken_silently(tmp_path):
    with ReplayBuffer(40, path=tmp_path / "b", n_step=3, gamma=0.9) as buffer:
        buffer.put(experience(40))
    for steps in ({}, {"n_step": 2, "gamma": 0.9}, {"n_step": 3, "gamma": 0.8}):
        with pytest.raises(InvalidValueError, match=r"n_step, gamma: expected \(3, 0.9\), as the buffer at .*, got"):
            ReplayBuffer(40, path=tmp_path / "b", **steps)
    with pytest.raises(InvalidTypeError, match="gamma: expected a number from 0 to 1, got 'x'"):
        ReplayBuffer.open(tmp_path / "b", "r+", gamma="x")
    with ReplayBuffer(40, path=tmp_path / "b", n_step=3, gamma=0.9) as again:
        assert len(again) == 40


def test_agents_one_after_the_other_and_mixed():
    rows = experience(20, end_probability=0) | {"agent": np.repeat([0, 1], 10).astype(np.int32)}
    rows["episode_end"][[9, 19]] = 1
    buffer = ReplayBuffer(20, n_step=3, gamma=0.9)
    buffer.put(rows)
    assert_steps(buffer.take(np.arange(20)), rows, np.arange(20), 3, 0.9)
    buffer.put(rows | {"agent": np.tile([0, 1], 10).astype(np.int32)})
    with pytest.raises(InvalidValueError, match="each agent's rows one after the other"):
        buffer.take(np.arange(20))


SPEC = dict.fromkeys(("reward", "terminal", "episode_end"), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ReplayBuffer(5, n_step=3), InvalidTypeError, "gamma: expected a number from 0 to 1 with n_step=3"),
        (lambda: ReplayBuffer(5, n_step=3, gamma=1.5), InvalidValueError, "gamma: expected a number from 0 to 1, got"),
        (lambda: ReplayBuffer(5, gamma=0.9), InvalidValueError, "expected none with n_step=1"),
        (lambda: ReplayBuffer(5, n_step=0, gamma=0.9), InvalidValueError, "n_step"),
        (lambda: ReplayBuffer(5, n_step=2**31, gamma=0.9), InvalidValueError, "n_step: .* 2147483647, got 2147483648"),
        (lambda: ReplayBuffer(5, n_step=2, gamma=0.9, spec={"reward": np.float32}), InvalidValueError, "'episode_end'"),
        (
            lambda: ReplayBuffer(5, n_step=2, gamma=0.9, spec=SPEC | {"reward": np.float64}),
            InvalidValueError,
            "key 'reward': expected float32",
        ),
        (
            lambda: ReplayBuffer(5, n_step=2, gamma=0.9, spec=SPEC | {"discount": np.float32}),
            InvalidValueError,
            "no key 'discount'",
        ),
        (
            lambda: ReplayBuffer(5, n_step=2, gamma=0.9).put({"reward": [1.0], "terminal": [0.0]}),
            InvalidValueError,
            "expected the keys",
        ),
    ],
)
def test_what_would_be_single_steps_without_a_word_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_outputs_of_the_caller_are_refused():
    buffer = ReplayBuffer(5, n_step=2, gamma=0.9, spec=SPEC)
    buffer.put({key: np.zeros(5, np.float32) for key in SPEC})
    with pytest.raises(InvalidValueError, match="out: expected none for a buffer whose batches have more"):
        buffer.sample(2, out={key: np.zeros(2, np.float32) for key in SPEC})
