"""Shards in a folder, open for reading: the rows in the order of puts, and nothing of them changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import InvalidFileError, InvalidValueError, OvertakenError, ReadOnlyError, ReplayBuffer
from really.service import ShardedBuffer
from tests.service.test_sharded_buffer import assert_same, episodes, rows, stacks

SIZES = (7, 1, 25, 60, 3, 13, 13, 40)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize(
    ("make", "options"), [(rows, {}), (stacks, {}), (episodes, {"n_step": 3, "gamma": 0.9}), (rows, {"alpha": 0.6})]
)
def test_rows_are_those_of_the_buffer_that_wrote_them(
    make: Any, options: dict[str, Any], shards: int, tmp_path: Path
) -> None:
    one, first = ReplayBuffer(61, **options), 0
    with ShardedBuffer(61, shards=shards, path=tmp_path / "replay", **options) as written:
        for size in SIZES:
            for buffer in (one, written):
                buffer.put(make(first, size))
            first += size
        for buffer in (one, written):
            buffer.remove([102, 105, 106, 131])
    before = files_of(tmp_path)
    with ShardedBuffer.open(tmp_path / "replay") as opened:
        assert (len(opened), opened.capacity, opened.spec) == (57, 61, one.spec)
        assert (opened.n_step, opened.gamma, opened.is_prioritized) == (one.n_step, one.gamma, False)
        assert_same(one.take(np.arange(57)), opened.take(np.arange(57)))
        assert np.isin(opened.sample(40)["id"], one.take(np.arange(57))["id"]).all()
        assert opened.verify().num_rows == 57
        opened.save(tmp_path / "rows.arrow")
        with opened.loaded(tmp_path / "rows.arrow") as loaded:
            assert len(loaded.shard_names) == shards
            if one.n_step == 1:  # several steps do not go on across removed rows in a file
                assert_same(one.take(np.arange(57)), loaded.take(np.arange(57)))
    (tmp_path / "rows.arrow").unlink()
    assert files_of(tmp_path) == before


def test_nothing_changes_a_buffer_that_is_open_for_reading(tmp_path: Path) -> None:
    with ShardedBuffer(60, shards=2, path=tmp_path) as written:
        written.put(rows(0, 20))
    before = files_of(tmp_path)
    with ShardedBuffer.open(tmp_path) as opened:
        changes = {
            "put": lambda: opened.put(rows(20, 4)),
            "clear": opened.clear,
            "remove": lambda: opened.remove([0]),
            "update": lambda: opened.update([0], {"reward": [1.0]}),
            "checkpoint": lambda: opened.moments,
        }
        for what, change in changes.items():
            with pytest.raises(ReadOnlyError, match=rf"^{what}: .*one that `open` reads; ShardedBuffer\(capacity, sha"):
                change()
        assert opened.take(np.arange(20))["id"].tolist() == list(range(20))
    assert files_of(tmp_path) == before


def test_a_process_that_reads_has_the_rows_of_the_moment_while_another_puts(tmp_path: Path) -> None:
    with ShardedBuffer(60, shards=3, path=tmp_path) as written:
        for first in range(0, 70, 7):
            written.put(rows(first, 7))
        with ShardedBuffer.open(tmp_path) as opened:
            written.put(rows(70, 7))
            written.put(rows(77, 7))
            assert opened.take(np.arange(60))["id"].tolist() == list(range(10, 70))
            for first in range(84, 200, 7):
                written.put(rows(first, 7))
            with pytest.raises(OvertakenError, match="take: expected rows that stay while they are copied"):
                opened.take(np.arange(60))
            with opened.open_reader() as reader, pytest.raises(OvertakenError, match="had been dropped for newer ones"):
                reader.read(60)
        with ShardedBuffer.open(tmp_path) as again:
            assert_same(written.take(np.arange(60)), again.take(np.arange(60)))


def test_shards_that_are_elsewhere_are_missing_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ShardedBuffer(60, shards=2, path=tmp_path / "replay") as written:
        for first in range(0, 80, 5):
            written.put(rows(first, 5))
    (tmp_path / "replay" / "shard-001").rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING, logger="really"), ShardedBuffer.open(tmp_path / "replay") as opened:
        assert 0 < len(opened) < 60
        ids = opened.take(np.arange(len(opened)))["id"]
        assert (np.diff(ids) > 0).all()
    assert "are in no shard that is here" in caplog.text


def test_a_folder_of_before_the_capacity_was_in_it_has_all_rows_of_its_shards(tmp_path: Path) -> None:
    with ShardedBuffer(60, shards=2, path=tmp_path) as written:
        written.put(rows(0, 20))
    for file in tmp_path.glob("shard-*/ledger"):
        file.write_text(file.read_text().partition(" ")[0])
    with ShardedBuffer.open(tmp_path) as opened:
        assert opened.take(np.arange(20))["id"].tolist() == list(range(20))
    with ShardedBuffer(60, shards=2, path=tmp_path):
        pass
    with ShardedBuffer.open(tmp_path) as opened:
        assert opened.capacity == 60


def test_other_folders_are_refused(tmp_path: Path) -> None:
    ReplayBuffer(60, path=tmp_path / "one", spec={"id": np.int64}).close()
    with pytest.raises(InvalidValueError, match=r"one: expected the folder of a buffer in shards, .*ReplayBuffer.open"):
        ShardedBuffer.open(tmp_path / "one")
    with pytest.raises(InvalidValueError, match="nowhere: expected the folder of a buffer in shards"):
        ShardedBuffer.open(tmp_path / "nowhere")
    for name in ("a", "b"):
        with ShardedBuffer(60, shards=2, path=tmp_path / name) as written:
            written.put(rows(0, 40))
    (tmp_path / "a" / "shard-001").rename(tmp_path / "gone")
    (tmp_path / "b" / "shard-001").rename(tmp_path / "a" / "shard-001")
    with pytest.raises(InvalidFileError, match="expected the shards of one buffer, got those of 2"):
        ShardedBuffer.open(tmp_path / "a")
