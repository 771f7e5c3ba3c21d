"""Checkpoints of managers whose buffer is in shards: the batches that come next come, and missing shards are named."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import InvalidValueError, ReplayBuffer, RunnerError, SampleManager
from really.checkpoints import structure
from really.service import ShardedBuffer
from tests.service.test_sharded_buffer import KINDS, assert_same, rows, stacks

CAPACITY = 60
STATE = {"state": (np.float32, (4,))}


def model(state: Any) -> dict[str, Any]:
    return {"q_values": np.zeros((len(state), 2), np.float32)}


def manager_of(buffer: Any) -> SampleManager:
    manager = SampleManager(model, "CartPole-v1", 2, 10, use_ray=False, seed=3)
    manager.buffer = buffer
    return manager


def sharded(path: Path | None, shards: int = 3, **options: Any) -> ShardedBuffer:
    return ShardedBuffer(CAPACITY, shards=shards, seed=5, path=path, **options)


def fill(buffer: Any, make: Any, first: int, sizes: tuple[int, ...]) -> int:
    for size in sizes:
        buffer.put(make(first, size))
        first += size
    return first


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_draws_the_batches_that_come_next(kind: str, place: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    if make is rows:
        make = lambda first, num: {key: column for key, column in rows(first, num).items() if key != "nothing"}  # noqa: E731
    one = ReplayBuffer(CAPACITY, seed=5, **options)
    with manager_of(sharded(tmp_path / "rows" if place == "disk" else None, **options)) as manager:
        for buffer in (one, manager.buffer):
            fill(buffer, make, 0, (7, 40, 25, 30, 1))
            buffer.sample(8)
        if one.is_prioritized:
            index = one.sample(16)["index"]
            assert_same({"index": manager.sample(16)["index"]}, {"index": index})
            for buffer in (one, manager.buffer):
                buffer.update_priorities(index, np.cos(index) ** 2)
        manager.save_checkpoint(tmp_path / "checkpoints")
        fill(manager.buffer, make, 103, (33, 40, 2))
        manager.sample(8)
        before = manager.buffer
        manager.load_checkpoint(tmp_path / "checkpoints")
        assert (manager.buffer is before) == (place == "disk")
        assert manager.rolled_back.rows_dropped == (60 if place == "disk" else 0)
        first = 103
        for size in (0, 13, 61):
            for buffer in (one, manager.buffer):
                fill(buffer, make, first, (size,))
            first += size
            ages = np.arange(len(one))
            assert_same(one.take(ages), manager.buffer.take(ages))
            for _ in range(3):
                assert_same(one.sample((2, 8)), manager.buffer.sample((2, 8)))
        manager.buffer.close()


@pytest.mark.parametrize("kind", ["n steps, priorities", "frames"])
def test_rows_in_memory_go_to_any_number_of_shards_and_to_one_buffer(kind: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    keys = list(make(0, 1))
    fewer, more = sharded(None, **options), sharded(None, 5, keys=keys, **options)
    with manager_of(fewer) as manager, manager_of(more) as other:
        fill(manager.buffer, make, 0, (7, 40, 25, 30, 1))
        manager.save_checkpoint(tmp_path)
        expected = manager.sample((3, 8))
        other.load_checkpoint(tmp_path)
        assert len(other.buffer.info()["shards"]) == 5
        assert_same(expected, other.sample((3, 8)))
        other.buffer = ReplayBuffer(CAPACITY, keys, **options)
        other.load_checkpoint(tmp_path)
        assert isinstance(other.buffer, ReplayBuffer)
        assert_same(expected, other.sample((3, 8)))


def test_a_process_that_comes_later_resumes_with_the_shards_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with manager_of(sharded(path)) as manager:
        fill(manager.buffer, rows, 0, (7, 40, 25, 30, 1))
        manager.save_checkpoint(tmp_path / "checkpoints")
        expected = manager.sample((3, 8))
        fill(manager.buffer, rows, 103, (40,))
        manager.buffer.close()
    (path / "shard-000").rename(path / "kept")
    (path / "shard-002").rename(path / "shard-000")
    (path / "kept").rename(path / "shard-002")
    with manager_of(sharded(path, keys=list(rows(0, 1)))) as manager:
        manager.load_checkpoint(tmp_path / "checkpoints")
        assert_same(expected, manager.sample((3, 8)))
        fill(manager.buffer, rows, 103, (25,))
        assert manager.buffer.take(np.arange(60))["id"].tolist() == list(range(68, 128))
        manager.buffer.close()
    with sharded(path) as buffer:
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(68, 128))


def test_a_missing_shard_is_named_with_what_can_still_be_had(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with manager_of(sharded(path)) as manager:
        fill(manager.buffer, rows, 0, (60,))
        manager.save_checkpoint(tmp_path / "checkpoints")
        held = [shard["rows"] for shard in manager.buffer.info()["shards"]]
        manager.buffer.close()
    (path / "shard-001").rename(tmp_path / "gone")
    with manager_of(sharded(path)) as manager:
        text = rf"expected the 60 rows .* got {60 - held[1]}\. Missing are {held[1]} of shard 1: it is not there"
        with pytest.raises(InvalidValueError, match=text):
            manager.load_checkpoint(tmp_path / "checkpoints")
        fill(manager.buffer, rows, 100, (9,))
        with pytest.raises(InvalidValueError, match="missing: expected"):
            manager.load_checkpoint(tmp_path / "checkpoints", missing="ignore")
        manager.load_checkpoint(tmp_path / "checkpoints", missing="accept")
        assert manager.rolled_back.rows_missing == held[1]
        found = manager.buffer.take(np.arange(len(manager.buffer)))["id"]
        assert len(found) == 60 - held[1]
        assert set(manager.sample(900)["id"]) == set(found)
        fill(manager.buffer, rows, 60, (60,))
        assert manager.buffer.take(np.arange(60))["id"].tolist() == list(range(60, 120))
        manager.buffer.close()
    with sharded(path) as buffer:
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(60, 120))


def test_rows_that_were_put_while_the_shard_of_the_newest_was_missing_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with manager_of(sharded(path)) as manager:
        fill(manager.buffer, rows, 0, (10, 10, 10))
        manager.save_checkpoint(tmp_path / "checkpoints")
        newest = manager.buffer._rows.ledger.last_shard
        manager.buffer.close()
    (path / f"shard-{newest:03d}").rename(tmp_path / "gone")
    with manager_of(sharded(path)) as manager:
        fill(manager.buffer, rows, 100, (9, 9, 9, 9))
        manager.load_checkpoint(tmp_path / "checkpoints", missing="accept")
        assert (manager.rolled_back.rows_missing, manager.rolled_back.rows_dropped) == (10, 36)
        assert set(manager.buffer.take(np.arange(20))["id"]) < set(range(30))
        manager.buffer.close()


def test_rows_that_later_ones_displaced_are_missing(tmp_path: Path) -> None:
    with manager_of(sharded(tmp_path / "rows", spare=30)) as manager:
        fill(manager.buffer, rows, 0, (60,))
        manager.save_checkpoint(tmp_path / "checkpoints")
        fill(manager.buffer, rows, 60, (30,))
        manager.load_checkpoint(tmp_path / "checkpoints")
        fill(manager.buffer, rows, 60, (60,) * 4)
        with pytest.raises(InvalidValueError, match="other rows took their place"):
            manager.load_checkpoint(tmp_path / "checkpoints")
        assert manager.buffer.take(np.arange(60))["id"].tolist() == list(range(240, 300))
        manager.load_checkpoint(tmp_path / "checkpoints", missing="accept")
        assert len(manager.buffer) + manager.rolled_back.rows_missing == 60
        fill(manager.buffer, rows, 60, (60,))
        assert manager.buffer.take(np.arange(60))["id"].tolist() == list(range(60, 120))
        manager.buffer.close()


def test_rows_that_came_after_a_return_are_not_those_of_a_later_checkpoint(tmp_path: Path) -> None:
    with manager_of(sharded(tmp_path / "rows")) as manager:
        fill(manager.buffer, rows, 0, (20,))
        manager.save_checkpoint(tmp_path / "earlier")
        fill(manager.buffer, rows, 20, (20,))
        manager.save_checkpoint(tmp_path / "later")
        manager.load_checkpoint(tmp_path / "earlier")
        fill(manager.buffer, rows, 500, (30,))
        with pytest.raises(InvalidValueError, match=r"expected the 40 rows .* got 20\. .*other rows took their place"):
            manager.load_checkpoint(tmp_path / "later")
        manager.load_checkpoint(tmp_path / "later", missing="accept")
        assert (manager.rolled_back.rows_missing, manager.rolled_back.rows_dropped) == (20, 30)
        assert manager.buffer.take(np.arange(20))["id"].tolist() == list(range(20))
        fill(manager.buffer, rows, 20, (40,))
        assert manager.buffer.take(np.arange(40))["id"].tolist() == list(range(20, 60))
        manager.buffer.close()


def test_another_buffer_is_refused(tmp_path: Path) -> None:
    with manager_of(sharded(tmp_path / "rows")) as manager:
        fill(manager.buffer, rows, 0, (60,))
        manager.save_checkpoint(tmp_path / "checkpoints")
        with pytest.raises(InvalidValueError, match="buffer_path: expected none for a buffer in shards"):
            manager.load_checkpoint(tmp_path / "checkpoints", buffer_path=tmp_path)
        other = sharded(tmp_path / "other", keys=list(rows(0, 1)))
        kept, buffers = manager.buffer, {
            "got none; call initialize_buffer": None,
            "got one in one process; call initialize_buffer": ReplayBuffer(CAPACITY),
            "got shards in memory; call initialize_buffer": ShardedBuffer(CAPACITY, shards=3),
            "expected shards of the checkpoint .shard 0, shard 1, shard 2., got none": other,
            "expected a buffer of 90 rows": ShardedBuffer(90, shards=3, path=tmp_path / "large"),
            "alpha": sharded(tmp_path / "drawn", alpha=0.5),
        }  # fmt: skip
        for text, buffer in buffers.items():
            manager.buffer = buffer
            with pytest.raises(InvalidValueError, match=text):
                manager.load_checkpoint(tmp_path / "checkpoints")
            assert manager.buffer is buffer
        for buffer in (kept, *buffers.values()):
            if isinstance(buffer, ShardedBuffer):
                buffer.close()
        manager.buffer = ReplayBuffer(CAPACITY, path=tmp_path / "one")
        manager.save_checkpoint(tmp_path / "plain")
        manager.buffer = sharded(tmp_path / "new")
        with pytest.raises(InvalidValueError, match="expected a buffer in shards, as the manager has, got one in one"):
            manager.load_checkpoint(tmp_path / "plain")
        manager.buffer.close()


def test_a_damaged_description_of_shards_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"expected .*names"):
        structure._moment_of_shards({"shards": []})


def test_puts_wait_for_rows_that_a_file_needs_and_lost_rows_are_marked(tmp_path: Path) -> None:
    buffer = sharded(None)
    fill(buffer, stacks, 0, (60,))
    snapshot = buffer.snapshot()
    putting = threading.Thread(target=fill, args=(buffer, stacks, 60, (10,)))
    putting.start()
    assert len(buffer) == 60
    with snapshot:
        while snapshot.reader.num_left > 20:
            assert np.asarray(snapshot.reader.read_shared(7)["state"]).shape[1:] == (4, 16, 32)
        for shard in buffer._shards._shards:
            shard.clear()
        with pytest.raises(RunnerError, match="save: expected the rows"):
            snapshot.reader.read_shared(7)
    putting.join()
    fill(buffer, stacks, 70, (60,))
    buffer._rows.ledger.lose(1)
    left = buffer.take(np.arange(len(buffer)))["id"].tolist()
    buffer.save(tmp_path / "rows.arrow")
    found = ReplayBuffer.load(tmp_path / "rows.arrow")
    assert found.take(np.arange(len(found)))["id"].tolist() == left
    again = buffer.loaded(tmp_path / "rows.arrow")
    assert again.take(np.arange(len(again)))["id"].tolist() == left
    assert set(again.sample(500)["id"]) == set(left)
    with pytest.raises(InvalidValueError, match="as long as this thread reads"), buffer.open_reader(keeps=True):
        fill(buffer, stacks, 130, (60,))
    buffer.to_parquet(tmp_path / "rows.parquet")
    assert len(ReplayBuffer.from_parquet(tmp_path / "rows.parquet")) == len(left)


def test_a_buffer_without_rows_says_so_and_is_saved(tmp_path: Path) -> None:
    buffer = sharded(None)
    assert [shard["rows"] for shard in buffer.info()["shards"]] == [0, 0, 0]
    assert buffer.memory()["held"] == 0
    buffer.save(tmp_path / "rows.arrow")
    again = buffer.loaded(tmp_path / "rows.arrow")
    for each in (buffer, again):
        fill(each, rows, 0, (60,))
    assert_same(buffer.sample(8), again.sample(8))
