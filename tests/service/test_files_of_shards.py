"""What a buffer in one process can do with files, one in shards can, too: each public name works, or says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from really import InvalidValueError, ReplayBuffer, ShardedBuffer
from really.replay.io import interchange, minari, saving
from tests.service.test_sharded_buffer import assert_same, episodes, pair, rows, stacks


def public(of: type) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_a_buffer_in_shards_has_all_public_names_of_one_in_one_process() -> None:
    assert public(ReplayBuffer) <= public(ShardedBuffer)


@pytest.mark.parametrize("shards", [1, 3])
def test_what_either_kind_saves_is_loaded_into_shards(shards: int, tmp_path: Path) -> None:
    for number, buffer in enumerate(pair(2, alpha=0.6)):
        buffer.put(stacks(0, 75))
        buffer.update_priorities(np.arange(20, 40), np.linspace(0, 3, 20))
        path = tmp_path / f"{number}.really"
        buffer.save(path)
        loaded = ShardedBuffer.load(path, shards=shards)
        assert len(loaded.shard_names) == shards
        assert_same(buffer.sample((2, 8)), loaded.sample((2, 8)))
        assert_same(buffer.take(np.arange(60)), ReplayBuffer.load(path).take(np.arange(60)))


def test_rows_of_files_and_other_buffers_go_into_shards(tmp_path: Path) -> None:
    one, sharded = pair(3)
    for buffer in (one, sharded):
        buffer.put(episodes(0, 100))
    every = np.arange(60)
    sharded.to_parquet(tmp_path / "rows.parquet")
    for made in (
        ShardedBuffer.from_parquet(tmp_path / "rows.parquet", shards=2),
        ShardedBuffer.from_arrow(one.to_arrow().read_all(), shards=2),
        ShardedBuffer.from_arrow(sharded, 60, shards=2),
    ):
        assert_same(one.take(every), made.take(every))
    into = ShardedBuffer(60, shards=2)
    into.put(one)
    back = ReplayBuffer(60)
    back.put(sharded)
    assert_same(one.take(every), into.take(every))
    assert_same(one.take(every), back.take(every))


def test_published_names_of_a_buffer_are_those_of_shards() -> None:
    one, sharded = pair(2)
    for buffer in (one, sharded):
        buffer.put(rows(0, 40))
    assert sharded.size == one.size
    assert_same(dict(one.buffer), dict(sharded.buffer))


def test_compact_batches_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"compact=False for a ShardedBuffer.*travel once"):
        ShardedBuffer(60, shards=2, unit=("transition", {"compact": True}))


def test_damaged_rows_of_a_shard_are_told_by_their_age(tmp_path: Path) -> None:
    memory = ShardedBuffer(60, shards=2)
    memory.put(rows(0, 5))
    assert memory.verify().unchecked.tolist() == list(range(5))
    with ShardedBuffer(60, shards=2, path=tmp_path, spare=4) as sharded:
        for first in range(0, 90, 10):
            sharded.put({"id": np.arange(first, first + 10)})
        sharded.flush()
        assert (sharded.verify().num_rows, len(sharded.verify().unchecked)) == (60, 0)
        sharded.put({"id": np.arange(90, 100)})
        found = sharded.verify()
        assert found.is_whole
        assert found.unchecked.tolist() == list(range(50, 60))
        sharded.flush()
        wanted = int(sharded.take([25])["id"][0])
        file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file() and _has(path, wanted))
        content = bytearray(file.read_bytes())
        at = content.index(np.int64(wanted).tobytes())
        with file.open("r+b") as written:
            written.seek(at)
            written.write(b"\xff")
        damaged = sharded.verify()
        assert 25 in damaged.damaged
        assert not damaged.is_whole
        assert damaged.files[0].startswith("shard ")
        numbers = sharded.numbers(damaged.damaged)
        sharded.remove(numbers)
        assert sharded.verify().is_whole


def _has(path: Path, value: int) -> bool:
    return path.name == "records" and np.int64(value).tobytes() in path.read_bytes()


def test_episodes_of_shards_become_a_data_set_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    num = 30
    states = np.arange(num + 1, dtype=np.float32)[:, None]
    ends = (np.arange(num) % 10 == 9).astype(np.float32)
    data = {"state": states[:-1], "action": np.arange(num) % 2, "reward": np.ones(num, np.float32),
            "state_new": states[1:], "terminal": ends}  # fmt: skip
    one, sharded = pair(2)
    for buffer, name in ((one, "one/rows-v0"), (sharded, "shards/rows-v0")):
        buffer.put(data)
        buffer.to_minari(name)
    back = ShardedBuffer.from_minari("shards/rows-v0", shards=2)
    expected = ReplayBuffer.from_minari("one/rows-v0")
    assert_same(expected.take(np.arange(num)), back.take(np.arange(num)))


def test_rows_of_lost_shards_are_left_out_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(minari, "CHUNK", 1)
    states = np.arange(61, dtype=np.float32)[:, None]
    data = {"state": states[:-1], "action": np.arange(60) % 3, "reward": np.arange(60, dtype=np.float32),
            "state_new": states[1:], "terminal": np.zeros(60, np.float32)}  # fmt: skip
    with ShardedBuffer(60, shards=3, path=tmp_path / "rows") as buffer:
        for first in range(0, 60, 10):
            buffer.put({key: column[first : first + 10] for key, column in data.items()})
    with ShardedBuffer(60, shards=2, path=tmp_path / "rows") as buffer:
        held = buffer.take(np.arange(len(buffer)))["reward"].tolist()
        assert 10 < len(held) < 60
        buffer.to_minari("lost/rows-v0")
        assert buffer.to_arrow(["reward"]).read_all()["reward"].to_pylist() == held
        assert interchange.to_arrow(buffer, ["reward"], chunk_bytes=1).read_all()["reward"].to_pylist() == held
        saving.save(buffer, tmp_path / "saved", chunk_bytes=1)
    for again in (ReplayBuffer.from_minari("lost/rows-v0"), ReplayBuffer.load(tmp_path / "saved")):
        assert again.take(np.arange(len(again)))["reward"].tolist() == held


def test_a_table_of_arrow_may_be_put_into_shards() -> None:
    sharded = ShardedBuffer(60, shards=2)
    sharded.put(pa.table({"id": np.arange(10)}))
    assert sharded.take(np.arange(10))["id"].tolist() == list(range(10))
