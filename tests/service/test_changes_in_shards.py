"""Removed and written rows of a sharded buffer, its episodes and epochs: those of one ReplayBuffer, to the bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import InvalidTypeError, InvalidValueError, OvertakenError, ReplayBuffer, SampleManager
from really.service import ShardedBuffer
from really.service.ledger import NOWHERE, Ledger
from tests.service import test_sharded_buffer, test_units_in_shards
from tests.service.test_units_in_shards import CAPACITY, assert_alike, assert_same, model, outcome, sequences, steps

KINDS = {**test_sharded_buffer.KINDS, **test_units_in_shards.KINDS}
SOME = ("uniform", "priorities", "newest", "n steps", "frames", "sequences", "sequences, priorities",
        "sequences, by task", "episodes by steps", "hindsight", "staleness")  # fmt: skip


def pair(kind: str, shards: int, path: Path | None = None) -> tuple[Any, ReplayBuffer, ShardedBuffer]:
    make, options = KINDS[kind]
    if path is not None and make is test_sharded_buffer.rows:
        make = stored_rows
    folder = None if path is None else path / "one"
    one = ReplayBuffer(CAPACITY, seed=5, path=folder, **options)
    return make, one, ShardedBuffer(CAPACITY, shards=shards, seed=5, path=path, **options)


def stored_rows(first: int, num: int) -> dict[str, np.ndarray]:
    return {key: column for key, column in test_sharded_buffer.rows(first, num).items() if key != "nothing"}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", SOME)
def test_removed_and_written_rows_are_those_of_one_buffer(kind: str, shards: int) -> None:
    make, one, sharded = pair(kind, shards)
    first, draw = 0, np.random.default_rng(shards)
    for size in (40, 30, 90, 13, 25, 50):
        for buffer in (one, sharded):
            buffer.put(make(first, size))
        first += size
        chosen = draw.integers(max(0, first - CAPACITY - 5), first, 12)
        written = {"id": chosen * 2, "reward": np.full(12, 7.0)} if "reward" in one.spec else {"id": chosen}
        calls = (
            lambda b, chosen=chosen: b.remove(chosen),
            lambda b, chosen=chosen, written=written: b.update(chosen[::-1], written),
            lambda b: b.remove(where=lambda columns: columns["id"] % 11 == 3),
            lambda b: b.numbers(),
            lambda b: b.numbers([[0, len(b) - 1]]),
            lambda b: b.take(np.arange(0, len(b), 3)),
            lambda b: b.sample((3, 8)),
            lambda b: b.sample(3, replace=False),
            lambda b: b.sample_indices(9),
            lambda b: b.to_arrow(["id"]).read_all()["id"].to_numpy(),
        )
        for call in calls:
            expected, got = outcome(lambda call=call: call(one)), outcome(lambda call=call: call(sharded))
            assert_alike(expected, got)
        if one.is_prioritized and isinstance(batch := outcome(lambda: one.sample(20)), dict):
            assert_alike(batch, outcome(lambda: sharded.sample(20)))
            for buffer in (one, sharded):
                buffer.update_priorities(batch["index"], np.cos(batch["index"]) ** 2)
        assert len(sharded) == len(one)
    for buffer in (one, sharded):
        buffer.clear()
        buffer.put(make(first, 60))
    assert_same(one.sample(12), sharded.sample(12))


def test_episodes_of_shards_are_those_of_one_buffer_and_can_be_removed() -> None:
    one, sharded = ReplayBuffer(CAPACITY), ShardedBuffer(CAPACITY, shards=3)
    for first in range(0, 120, 40):
        for buffer in (one, sharded):
            buffer.put(steps(first, 40))
    expected = one.episodes()
    assert sharded.episodes().equals(expected)
    removed = [buffer.remove(episodes=buffer.episodes().slice(2, 2)) for buffer in (one, sharded)]
    assert removed == [11, 11]
    assert sharded.episodes().equals(one.episodes())
    assert_same(one.take(np.arange(len(one))), sharded.take(np.arange(len(one))))


def test_removed_rows_of_folders_stay_removed(tmp_path: Path) -> None:
    options = sequences(checks_states=False)
    with ShardedBuffer(CAPACITY, shards=3, seed=5, path=tmp_path, **options) as buffer:
        for first in range(0, 80, 40):
            buffer.put(steps(first, 40))
        assert buffer.remove([3, 40, 41, 79]) == 4
        assert buffer.update([5, 6], {"reward": [5.0, 6.0]}) == 2
        kept, expected = buffer.take(np.arange(70)), buffer.numbers()
    with ShardedBuffer(CAPACITY, shards=3, seed=5, path=tmp_path, **options) as buffer:
        assert buffer.numbers().tolist() == expected.tolist()
        assert_same(kept, buffer.take(np.arange(70)))
        assert buffer.remove([3, 4]) == 1
        assert not np.isin(buffer.sample(300)["number"], [3, 4, 40, 41, 79]).any()


@pytest.mark.parametrize("kind", ["n steps", "sequences", "hindsight", "priorities"])
def test_saved_buffers_with_removed_rows_draw_what_one_buffer_draws(kind: str, tmp_path: Path) -> None:
    make, one, sharded = pair(kind, 3)
    for first, size in ((0, 40), (40, 30), (70, 25)):
        for buffer in (one, sharded):
            buffer.put(make(first, size))
            buffer.remove(np.arange(max(0, first - 8), first + size, 7))
    one.save(tmp_path / "one")
    sharded.save(tmp_path / "sharded")
    expected = one.sample(64)
    for name in ("one", "sharded"):
        assert_same(expected, ReplayBuffer.load(tmp_path / name).sample(64))
        with ShardedBuffer.load(tmp_path / name, shards=2) as loaded:
            assert_same(expected, loaded.sample(64))


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("kind", ["uniform", "priorities", "sequences"])
def test_a_resumed_run_has_the_rows_that_were_left(kind: str, place: str, tmp_path: Path) -> None:
    make, one, sharded = pair(kind, 3, tmp_path / "rows" if place == "disk" else None)
    make = stored_rows if make is test_sharded_buffer.rows else make
    with SampleManager(model, "CartPole-v1", 2, 10, use_ray=False, seed=3) as manager:
        manager.buffer = sharded
        for buffer in (one, sharded):
            buffer.put(make(0, 40))
            buffer.put(make(40, 70))
            buffer.remove([30, 31, 77, 78, 100])
            buffer.sample(8)
        manager.save_checkpoint(tmp_path / "checkpoints")
        sharded.put(make(110, 30))
        manager.sample(8)
        manager.load_checkpoint(tmp_path / "checkpoints")
        for first, size in ((110, 0), (110, 13), (123, 70)):
            for buffer in (one, manager.buffer):
                buffer.put(make(first, size))
            assert len(manager.buffer) == len(one)
            assert_same(one.sample((2, 8)), manager.buffer.sample((2, 8)))
        manager.buffer.close()


def test_epochs_of_shards_are_those_of_one_buffer() -> None:
    one, sharded = ReplayBuffer(CAPACITY, seed=4), ShardedBuffer(CAPACITY, shards=3, seed=4)
    for buffer in (one, sharded):
        buffer.put(steps(0, 100))
        buffer.remove([30, 31, 50])
    passes = [buffer.epochs(16, 2) for buffer in (one, sharded)]
    state: dict[str, Any] = {}
    for number, (expected, got) in enumerate(zip(*passes, strict=True)):
        assert_same(expected, got)
        if number == 4:
            state = passes[1].state_dict()
            assert state == passes[0].state_dict()
    again = sharded.epochs(16, 2)
    again.load_state_dict(state)
    assert len(list(again)) == len(passes[0]) - 5
    going = sharded.epochs(16)
    sharded.put(steps(100, 40))
    with pytest.raises(OvertakenError, match="epochs: expected the rows from 10 to before 100"):
        list(going)


def test_bad_changes_are_refused() -> None:
    sharded = ShardedBuffer(CAPACITY, shards=3)
    sharded.put(steps(0, 40))
    with pytest.raises(
        InvalidValueError, match="numbers: expected numbers of rows that were put, from 0 to 39, got 40"
    ):
        sharded.remove([1, 40])
    with pytest.raises(InvalidValueError, match="update: expected"):
        sharded.update([1], {"rewards": [1.0]})
    with pytest.raises(InvalidTypeError, match="pickling: expected a buffer in one process"):
        pickle.dumps(sharded)
    assert len(sharded) == 40


def test_a_ledger_without_some_rows_is_that_of_a_plain_list() -> None:
    draw = np.random.default_rng(0)
    ledger, plain, places = Ledger(3), dict[int, tuple[int, int]](), [0, 0, 0]
    removed = set[int]()
    for number in range(0, 400, 10):
        shard = int(draw.integers(3))
        ledger.add(number, shard, places[shard], 10)
        plain |= {number + at: (shard, places[shard] + at) for at in range(10)}
        places[shard] += 10
        chosen = np.unique(draw.integers(max(0, number - 60), number + 10, 4))
        ledger.remove(chosen)
        removed |= set(chosen.tolist())
        oldest = max(0, number - 50)
        ledger.drop_before(oldest)
        held = np.arange(oldest, number + 10)
        left = [row for row in held.tolist() if row not in removed]
        assert ledger.num_rows == ledger.counts.sum() == len(left)
        assert ledger.numbers_at(np.arange(len(left))).tolist() == left
        assert ledger.removed.tolist() == [row for row in held.tolist() if row in removed]
        shards, found = ledger.locate(held)
        assert [row for row, shard in zip(held.tolist(), shards.tolist(), strict=True) if shard != NOWHERE] == left
        shards, found = ledger.whereabouts(held)
        assert list(zip(shards.tolist(), found.tolist(), strict=True)) == [plain[row] for row in held.tolist()]
        oldest_places = [
            min((p for s, p in (plain[r] for r in held.tolist()) if s == one), default=NOWHERE) for one in range(3)
        ]
        assert ledger.oldest_places(oldest).tolist() == oldest_places
