"""Recurrent states that few rows have of their own: a buffer keeps each once, and gives every row as it was put."""

import numpy as np
import pytest

from really import InvalidValueError, ReplayBuffer
from really.replay import Sequences, Transitions, stacked
from really.replay.frame_encoding import encode

NUM = 3000
HIDDEN = "recurrent_state.hidden"


def rows_of(draw, num, every, num_agents=1, size=64):
    """Rows in which each agent's state is new every so many rows; agents take turns row by row."""
    states = draw.standard_normal((num_agents, num, size)).astype(np.float32)
    step, agent = np.divmod(np.arange(num), num_agents)
    return {
        "reward": draw.standard_normal(num).astype(np.float32),
        "has_recurrent_state": (step % every == 0).astype(np.float32),
        HIDDEN: states[agent, step - step % every],
        "recurrent_state.step": step,
    }


def put_in_pieces(buffer, rows, piece, encoded=False):
    for first in range(0, len(rows["reward"]), piece):
        part = {key: column[first : first + piece] for key, column in rows.items()}
        buffer.put(encode(part) if encoded else part)


def states_held(buffer):
    """How many states the buffer keeps for its rows."""
    column = buffer._ring.read(int(buffer.numbers()[0]), len(buffer))[HIDDEN]
    assert column.stack == (1, 0)
    return len(np.unique(column.indices))


@pytest.mark.parametrize("encoded", [False, True], ids=["arrays", "messages"])
@pytest.mark.parametrize(("every", "num_agents"), [(1, 1), (2, 1), (10, 1), (10, 8), (40, 3)])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_every_row_comes_out_as_it_was_put(encoded, every, num_agents, where, tmp_path):
    rows = rows_of(np.random.default_rng(every), NUM, every, num_agents)
    path = {"path": tmp_path / "folder"} if where == "disk" else {}
    with ReplayBuffer(NUM // 2, **path) as buffer:
        put_in_pieces(buffer, rows, 70, encoded)
        found = buffer.take(np.arange(NUM // 2))
        for key, column in rows.items():
            np.testing.assert_array_equal(found[key], column[NUM // 2 :])
        # A message begins with a state of its own for each agent.
        most = NUM / 2 / every + num_agents * (NUM / 2 / 70 if encoded else 1)
        assert states_held(buffer) <= most + num_agents


def test_states_are_kept_once_again_after_rows_that_repeat_none():
    draw = np.random.default_rng(0)
    buffer = ReplayBuffer(40_000)
    put_in_pieces(buffer, rows_of(draw, 10_000, 1), 500)
    put_in_pieces(buffer, rows_of(draw, 30_000, 10), 500)
    assert states_held(buffer) < 10_000 + 3_000 + 12_000


def test_without_the_flag_states_are_stored_in_every_row():
    rows = rows_of(np.random.default_rng(0), 100, 10)
    del rows["has_recurrent_state"]
    buffer = ReplayBuffer(100)
    buffer.put(rows)
    assert buffer._ring.shared == []
    np.testing.assert_array_equal(buffer.take(np.arange(100))[HIDDEN], rows[HIDDEN])


@pytest.mark.parametrize("has_flag", [False, True])
@pytest.mark.parametrize("unit", [Sequences(4, compact=True), Transitions(compact=True)])
def test_compact_batches_have_whole_states(has_flag, unit):
    """A state of two layers may share frames as a stack of two; only repeated ones come as whole rows."""
    layers = np.random.default_rng(0).standard_normal((100, 2, 128)).astype(np.float32)
    rows = {"reward": np.arange(100, dtype=np.float32), "terminal": np.zeros(100, np.float32)}
    rows |= {"recurrent_state": layers} | ({"has_recurrent_state": np.ones(100, np.float32)} if has_flag else {})
    buffer = ReplayBuffer(100, unit=unit, seed=0)
    buffer.put(rows)
    batch = buffer.sample(8)
    assert ("recurrent_state" in batch) == has_flag
    found = stacked(batch)
    np.testing.assert_array_equal(found["recurrent_state"], layers[found["reward"].astype(int)])


@pytest.mark.parametrize("after", ["h_new", "h_", "new.h"])
def test_states_whose_names_are_those_of_a_state_and_the_next_are_no_pair(after, tmp_path):
    draw = np.random.default_rng(0)
    names = [HIDDEN.replace("hidden", name) for name in ("h", after)]
    rows = {name: draw.standard_normal((50, 64)).astype(np.float32).repeat(2, axis=0) for name in names}
    rows |= {"has_recurrent_state": np.ones(100, np.float32), "terminal": np.zeros(100, np.float32)}
    with ReplayBuffer(100, path=tmp_path / "folder", unit=Sequences(4, compact=True)) as buffer:
        buffer.put(rows)
    with ReplayBuffer.open(tmp_path / "folder") as again:
        batch = again.sample(16)
        for name in names:
            np.testing.assert_array_equal(batch[name], rows[name][batch["number"]])


def test_a_stack_of_a_repeated_state_is_refused():
    rows = rows_of(np.random.default_rng(0), 100, 10)
    with pytest.raises(
        InvalidValueError, match=r"stack: key 'recurrent_state.hidden': expected none, as a row is a recu"
    ):
        ReplayBuffer(100, stack={HIDDEN: (4, 0)}).put(rows)
