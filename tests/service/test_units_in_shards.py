"""Sample units and samplers that look at columns, in shards: batches are those of one ReplayBuffer, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import InvalidValueError, ReplayBuffer, SampleManager
from really.service import ShardedBuffer

CAPACITY = 90
SIZES = (8, 1, 25, 90, 3, 120, 0, 13, 13, 40)
"""Rows of each put: the buffer wraps around, and one put has more rows than fit."""
AGENTS, STEPS = 3, 7


def reached(achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
    """The reward of a goal."""
    return -(np.abs(achieved - desired).max(axis=-1) > 0.5).astype(np.float32)


def steps(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows of three agents in turns, whose episodes have seven steps; every fifth episode of an agent is cut off."""
    ids = np.arange(first, first + num)
    agent, step = ids % AGENTS, ids // AGENTS
    ends = step % STEPS == STEPS - 1
    cut = step // STEPS % 5 == 4
    now = (step * 10 + agent)[:, None].astype(np.float32)
    return {
        "id": ids, "agent": agent, "reward": np.sin(ids).astype(np.float32), "policy_version": ids // 20,
        "terminal": (ends & ~cut).astype(np.float32), "truncated": ends & cut, "state.seen": np.repeat(now, 2, axis=1),
        "state_new.seen": np.repeat(now + 10, 2, axis=1), "state.achieved_goal": now % 7,
        "state_new.achieved_goal": (now + 10) % 7, "state.desired_goal": now * 0, "state_new.desired_goal": now * 0,
    }  # fmt: skip


def stacks(first: int, num: int) -> dict[str, np.ndarray]:
    """Stacks of frames that share frames, of one agent, 2 kB a row."""
    ids = np.arange(first, first + num)
    frames = ((ids[:, None] + np.arange(5)) % 251).astype(np.uint8)
    whole = np.broadcast_to(frames[:, :, None, None], (num, 5, 16, 32))
    ends = (ids % 9 == 8).astype(np.float32)
    return {"id": ids, "terminal": ends, "not_done": 1 - ends, "state": whole[:, :4].copy(),
            "state_new": whole[:, 1:].copy()}  # fmt: skip


def sequences(**options: Any) -> dict[str, Any]:
    return {"unit": ("sequences", {"length": 4, **options})}


def hindsight(**options: Any) -> dict[str, Any]:
    return {"unit": ("hindsight", {"reward": reached, **options})}


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sequences": (steps, sequences()),
    "sequences, padded": (steps, sequences(burn_in=2, pad=True)),
    "sequences over episodes": (steps, sequences(across_episodes=True)),
    "sequences, order trusted": (steps, sequences(checks_states=False)),
    "sequences, priorities": (steps, {**sequences(), "alpha": 0.7}),
    "sequences, newest": (steps, {**sequences(), "sampler": ("newest", {"num_rows": 60})}),
    "sequences, by task": (steps, {**sequences(), "sampler": ("stratified", {"column": "agent"})}),
    "sequences of frames": (stacks, sequences()),
    "episodes": (steps, {"unit": "episodes"}),
    "episodes by steps": (steps, {"unit": ("episodes", {"by": "steps", "length": 9})}),
    "hindsight": (steps, hindsight()),
    "hindsight, last goals": (steps, hindsight(strategy="final", k=1)),
    "hindsight, priorities": (steps, {**hindsight(strategy="episode"), "alpha": 0.5}),
    "by task": (steps, {"sampler": ("stratified", {"column": "agent", "weights": {0: 1, 2: 3}})}),
    "staleness": (steps, {"sampler": ("staleness", {"half_life": 2})}),
}


def pair(shards: int, **options: Any) -> tuple[ReplayBuffer, ShardedBuffer]:
    return ReplayBuffer(CAPACITY, seed=5, **options), ShardedBuffer(CAPACITY, shards=shards, seed=5, **options)


@pytest.mark.parametrize("kind", [*KINDS, "transitions", "n_step"])
def test_no_indices_give_a_batch_without_rows(kind: str) -> None:
    rows, options = KINDS.get(kind, (steps, {}))
    data = rows(0, 60)
    if kind == "n_step":
        options, data = {"n_step": 3, "gamma": 0.9}, data | {"episode_end": data["terminal"], "agent": data["id"] * 0}
    for buffer in pair(2, **options):
        buffer.put(data)
        none, some = buffer.take([]), buffer.take([0, 1])
        has_own_length = options == {"unit": "episodes"}  # that of the longest episode
        assert list(none) == list(some)
        for key, column in none.items():
            column[...] = 1
            assert column.dtype == some[key].dtype
            assert column.shape[0] == 0
            assert has_own_length or column.shape[1:] == some[key].shape[1:]
        buffer.close()


def assert_same(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for key, column in expected.items():
        assert (got[key].dtype, got[key].shape) == (column.dtype, column.shape), key
        assert got[key].tobytes() == column.tobytes(), key


def outcome(call: Any) -> Any:
    """What a call gives, or the text of its error."""
    try:
        return call()
    except (ValueError, LookupError, RuntimeError) as error:
        return re.sub(r" at 0x\w+", "", f"{type(error).__name__}: {error}")


def assert_alike(one: Any, sharded: Any) -> None:
    """Batches, or the same errors."""
    if isinstance(one, dict) and isinstance(sharded, dict):
        assert_same(one, sharded)
    else:
        assert np.array_equal(one, sharded), (one, sharded)


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_one_buffer(kind: str, shards: int) -> None:
    make, options = KINDS[kind]
    one, sharded = pair(shards, **options)
    first, rng = 0, np.random.default_rng(shards)
    for size in SIZES:
        for buffer in (one, sharded):
            buffer.put(make(first, size))
        first += size
        for n in (5, (3, 4), 40):
            expected = outcome(lambda n=n: one.sample(n))
            assert_alike(expected, outcome(lambda n=n: sharded.sample(n)))
            if one.is_prioritized and isinstance(expected, dict):
                errors = rng.random(expected["index"].shape)
                updated = [b.update_priorities(expected["index"], errors) for b in (one, sharded)]
                assert updated[0] == updated[1]
        calls = [
            lambda b: b.sample(3, replace=False),
            lambda b: b.sample_indices(9),
            lambda b: b.take([[0, len(b) - 1]]),
        ]
        for call in calls:
            assert_alike(outcome(lambda call=call: call(one)), outcome(lambda call=call: call(sharded)))
        assert len(sharded) == len(one)
    assert outcome(lambda: sharded.batch_spec) == outcome(lambda: one.batch_spec)
    for buffer in (one, sharded):
        buffer.clear()
        buffer.put(make(first, 60))
    assert_same(one.sample(12), sharded.sample(12))
    assert sharded.state_dict().keys() == one.state_dict().keys()


def model(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("kind", ["sequences, priorities", "episodes", "hindsight", "staleness"])
def test_a_resumed_run_draws_the_batches_that_come_next(kind: str, place: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    path = tmp_path / "rows" if place == "disk" else None
    one = ReplayBuffer(CAPACITY, seed=5, **options)
    with SampleManager(model, "CartPole-v1", 2, 10, use_ray=False, seed=3) as manager:
        manager.buffer = ShardedBuffer(CAPACITY, shards=3, seed=5, path=path, **options)
        for buffer in (one, manager.buffer):
            for first, size in ((0, 40), (40, 70), (110, 9)):
                buffer.put(make(first, size))
            buffer.sample(8)
        if one.is_prioritized:
            index = one.sample(16)["index"]
            assert_same({"index": manager.sample(16)["index"]}, {"index": index})
            for buffer in (one, manager.buffer):
                buffer.update_priorities(index, np.cos(index) ** 2)
        manager.save_checkpoint(tmp_path / "checkpoints")
        manager.buffer.put(make(119, 50))
        manager.sample(8)
        manager.load_checkpoint(tmp_path / "checkpoints")
        for first, size in ((119, 0), (119, 13), (132, 70)):
            for buffer in (one, manager.buffer):
                buffer.put(make(first, size))
            assert_same(one.sample((2, 8)), manager.buffer.sample((2, 8)))
        manager.buffer.close()


def test_batches_ahead_and_data_sets_of_sequences(tmp_path: Path) -> None:
    one, sharded = pair(3, **sequences(pad=True))
    for buffer in (one, sharded):
        buffer.put(steps(0, 90))
    with one.batches(6) as expected, sharded.batches(6, as_="tf") as got:
        for _ in range(3):
            assert_same(next(expected), {key: column.numpy() for key, column in next(got).items()})
    batch = next(iter(sharded.dataset(6).take(1)))
    assert batch["mask"].shape == (6, 4)


def test_sequences_of_rows_in_folders_are_drawn_after_they_are_opened_again(tmp_path: Path) -> None:
    with ShardedBuffer(CAPACITY, shards=3, seed=5, path=tmp_path, **sequences()) as buffer:
        buffer.put(steps(0, 60))
        expected = buffer.sample(50)
    with ShardedBuffer(CAPACITY, shards=2, seed=5, path=tmp_path, **sequences()) as buffer:
        assert len(buffer) < 60
        found = buffer.sample(50)
        assert set(found["number"][:, 0]) <= set(range(60))
        assert (np.diff(found["id"], axis=1) == AGENTS).all()
    with ShardedBuffer(CAPACITY, shards=3, seed=5, path=tmp_path, **sequences()) as buffer:
        assert_same(expected, buffer.sample(50))


def test_compact_batches_and_names_of_such_buffers_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="compact=False for a ShardedBuffer"):
        ShardedBuffer(10, shards=2, unit=("sequences", {"length": 2, "compact": True}))
    with pytest.raises(InvalidValueError, match=r"as other processes read its ledger alone, got .*sequences"):
        ShardedBuffer(10, shards=2, name="some", unit=("sequences", {"length": 2}))
