"""Shards in folders: places outlive a kill, and a buffer goes on where the one before ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really import DiskFullError, FileError, InvalidFileError, InvalidValueError, LockedError, ReplayBuffer
from really.service import ShardedBuffer
from really.service.places import Places
from really.service.shard import Shard
from tests.service.test_sharded_buffer import assert_same, episodes, rows, stacks


def sharded(path: Path, shards: int = 3, **options: Any) -> ShardedBuffer:
    return ShardedBuffer(60, shards=shards, seed=5, path=path, **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 3)), max_size=20), st.integers(0, 30))
def test_places_are_those_of_a_plain_list_also_after_a_kill(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int, int]], lost: int
) -> None:
    file = tmp_path_factory.mktemp("places") / "places"
    kept, place, number = list[tuple[int, int]](), 0, 0
    places = Places(file)
    for num, refused, elsewhere in puts:
        if refused:
            places.add(len(kept), place, number)
        place, number = place + refused, number + elsewhere
        if num:
            places.add(len(kept), place, number)
        kept += [(number + i, place + i) for i in range(num)]
        place, number = place + num, number + num
    num_put = max(0, len(kept) - lost)  # a kill comes before the last rows are in
    for found, count in ((places, len(kept)), (Places(file, num_put), num_put)):
        held = kept[:count]
        runs = found.runs(count // 3, count).tolist()
        assert [(n + i, p + i) for n, p, length in runs for i in range(length)] == held[count // 3 :]
        assert found.rings(np.array([p for _, p in held], np.int64)).tolist() == list(range(count))
        if held:
            assert held[-1][1] < found.next_place(count) <= place
        assert [p for p in range(place + 2) if found.has(p, count)] == [p for _, p in held]


def test_a_folder_of_another_buffer_is_refused_though_its_rows_would_fit(tmp_path: Path) -> None:
    for name, first in (("one", 0), ("other", 1000)):
        with sharded(tmp_path / name) as buffer:
            buffer.put(rows(first, 60))
    (tmp_path / "one" / "shard-001").rename(tmp_path / "kept")
    (tmp_path / "other" / "shard-001").rename(tmp_path / "one" / "shard-001")
    with pytest.raises(
        InvalidFileError, match=r"of one buffer, got those of 2: shard .* and shard .* are of different"
    ):
        sharded(tmp_path / "one")
    (tmp_path / "one" / "shard-001").rename(tmp_path / "away")
    (tmp_path / "kept").rename(tmp_path / "one" / "shard-001")
    with sharded(tmp_path / "one") as buffer:
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(60))
    ReplayBuffer(60, path=tmp_path / "plain", spec={"id": np.int64}).close()
    with pytest.raises(InvalidValueError, match=r"expected a folder for shards, got .*plain, which has a ReplayBuffer"):
        sharded(tmp_path / "plain")


def test_nothing_is_written_to_the_path_of_shards_that_were_moved(tmp_path: Path) -> None:
    moved = sharded(tmp_path / "ring")
    fill(moved, 0, 60, 5)
    (tmp_path / "ring").rename(tmp_path / "moved")
    with sharded(tmp_path / "ring") as new:
        fill(new, 0, 60, 3)
        new.flush()
        with pytest.raises(FileError, match="rows: expected the folder of the buffer that is open, got another folder"):
            fill(moved, 60, 200, 7)
        with pytest.raises(FileError, match="rows: expected the folder of the buffer that is open, got another folder"):
            moved.close()
        assert new.take(np.arange(60))["id"].tolist() == list(range(60))
    with sharded(tmp_path / "ring") as new:
        assert new.take(np.arange(60))["id"].tolist() == list(range(60))
        assert new.verify().is_whole


def fill(buffer: ShardedBuffer, first: int, end: int, num: int) -> None:
    for at in range(first, end, num):
        buffer.put(rows(at, num))


def test_places_of_rows_that_a_shard_refused_give_no_rows_of_later_puts() -> None:
    shard = Shard(100)
    shard.put_at(0, 0, {"id": np.arange(10)})
    shard.put_at(20, 20, {"id": np.arange(20, 40)})  # ten rows between were refused
    assert shard.take_at(np.array([3, 12])) is None
    assert shard.columns_at(np.array([3, 12]), ["id"]) is None
    held = shard.take_at(np.array([[3, 25], [9, 20]]))
    assert held is not None
    assert held["id"].tolist() == [[3, 25], [9, 20]]


@pytest.mark.parametrize("make", [rows, episodes, stacks])
def test_a_buffer_goes_on_with_its_rows_in_order(tmp_path: Path, make: Any) -> None:
    options = {"n_step": 3, "gamma": 0.9} if make is episodes else {}
    one = ReplayBuffer(60, seed=5, **options)
    first = 0
    for sizes in ((7, 40, 1), (30, 30), (3,)):
        with sharded(tmp_path, **options) as buffer:
            assert (len(buffer), buffer.spec) == (len(one), one.spec)
            for size in sizes:
                for each in (one, buffer):
                    each.put(make(first, size))
                first += size
            ages = np.arange(len(one))
            assert_same(one.take(ages), buffer.take(ages))
            buffer.flush()
    with sharded(tmp_path, **options) as buffer:
        fresh = ReplayBuffer(60, seed=5, **options)
        fresh.put(make(first - 60, 60))
        assert_same(fresh.sample((2, 9)), buffer.sample((2, 9)))


def test_a_full_disk_refuses_the_put_and_nothing_else(tmp_path: Path) -> None:
    disk = tmp_path / "shard-001"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        with ShardedBuffer(4000, shards=2, path=tmp_path, overcommit=True, seed=0) as buffer:
            first, refused = 0, None
            while refused is None:
                ids = np.arange(first, first + 70)
                try:
                    buffer.put({"id": ids, "same": np.repeat(ids[:, None], 200, axis=1)})
                except DiskFullError as error:
                    refused = str(error)
                else:
                    first += 70
            assert "none is in" in refused
            found = buffer.take(np.arange(len(buffer)))
            assert found["id"].tolist() == list(range(first))
            assert (found["same"] == found["id"][:, None]).all()
            subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
            buffer.put({"id": [first], "same": np.full((1, 200), first)})
        with ShardedBuffer(4000, shards=2, path=tmp_path, overcommit=True) as buffer:
            assert buffer.take(np.arange(len(buffer)))["id"].tolist() == list(range(first + 1))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


PUTS_FOR_EVER = """
    import sys
    import numpy as np
    from really.service import ShardedBuffer
    buffer = ShardedBuffer(60, shards=3, path=sys.argv[1])
    for first in range(0, 10**9, 7):
        ids = np.arange(first, first + 7)
        buffer.put({"id": ids, "same": ids})
        print(first + 7, flush=True)
"""


def test_a_kill_loses_no_row_of_a_put_that_returned(tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(PUTS_FOR_EVER), str(tmp_path)]
    child = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    last = 0
    for _ in range(200):
        last = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with sharded(tmp_path) as buffer:
        found = buffer.take(np.arange(len(buffer)))
        assert (found["id"] == found["same"]).all()
        assert found["id"][-1] + 1 >= last
        assert (np.diff(found["id"]) == 1).all()
        assert len(buffer) >= 60 - 7
        buffer.put({"id": np.arange(60), "same": np.arange(60)})
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(60))


def test_a_put_that_is_repeated_leaves_out_the_rows_that_are_in(tmp_path: Path) -> None:
    with Shard(20, path=tmp_path / "one") as shard:
        shard.put_at(0, 100, {"id": np.arange(5)})
        shard.put_at(3, 103, {"id": np.arange(3, 9)})
        shard.put_at(3, 103, {"id": np.arange(3, 9)})
        shard.put_at(12, 120, {"id": np.arange(12, 14)})
        assert shard.runs.tolist() == [[100, 0, 9], [120, 12, 2]]
        assert shard.take_at(np.array([0, 8, 12, 13]))["id"].tolist() == [0, 8, 12, 13]
        assert [place for place in range(20) if shard.has(place)] == [*range(9), 12, 13]


def test_folders_whose_shards_have_no_room_for_a_whole_episode_are_refused_with_n_step(tmp_path: Path) -> None:
    """A put that no shard can take whole would be divided, and steps would go on from one episode into another."""
    options = {"n_step": 3, "gamma": 0.9}
    with sharded(tmp_path / "a", **options) as buffer:
        buffer.put(episodes(0, 12))
    message = (
        r"path: expected folders of shards with room for 70 rows each, .* with n_step, got 60: they were made for a"
    )
    with pytest.raises(InvalidFileError, match=message):
        ShardedBuffer(70, shards=3, path=tmp_path / "a", **options)
    with ShardedBuffer(50, shards=3, path=tmp_path / "a", **options) as buffer:
        buffer.put(episodes(12, 50))
        assert len(buffer) == 50


def test_folders_of_another_buffer_are_refused(tmp_path: Path) -> None:
    with sharded(tmp_path / "a") as one, sharded(tmp_path / "b") as other:
        for buffer in (one, other):
            buffer.put({"id": np.arange(60)})
        with pytest.raises(LockedError, match="expected a buffer that nobody else writes"):
            sharded(tmp_path / "a")
    with pytest.raises(InvalidFileError, match="with room for 60 rows, got 30: they were made for a smaller buffer"):
        sharded(tmp_path / "a", shards=1)
    with pytest.raises(InvalidValueError, match="n_step"):
        sharded(tmp_path / "a", n_step=2, gamma=0.9)
    (tmp_path / "a" / "shard-001").rename(tmp_path / "kept")
    (tmp_path / "b" / "shard-000").rename(tmp_path / "a" / "shard-001")
    with pytest.raises(InvalidFileError, match="path: expected the shards of one buffer, got those of 2"):
        sharded(tmp_path / "a")
    (tmp_path / "a" / "shard-001" / "ledger").unlink()
    with pytest.raises(InvalidFileError, match="path: expected the shards of one buffer, got rows of the same number"):
        sharded(tmp_path / "a")
    (tmp_path / "kept" / "places").unlink()
    (tmp_path / "a" / "shard-001").rename(tmp_path / "b" / "shard-000")
    (tmp_path / "kept").rename(tmp_path / "a" / "shard-001")
    with pytest.raises(InvalidFileError, match="expected a file with the places of"):
        sharded(tmp_path / "a")
    (tmp_path / "a" / "shard-001" / "places").write_bytes(np.arange(6, dtype=np.int64)[::-1].tobytes())
    with pytest.raises(InvalidFileError, match="expected places of rows that rise"):
        sharded(tmp_path / "a")


def test_more_or_fewer_shards_go_on_with_the_rows_that_are_there(tmp_path: Path, caplog: Any) -> None:
    with sharded(tmp_path) as buffer:
        buffer.put({"id": np.arange(60)})
    with sharded(tmp_path, shards=5) as buffer:
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(60))
        for first in range(60, 180, 5):
            buffer.put({"id": np.arange(first, first + 5)})
        held = [shard["rows"] for shard in buffer.info()["shards"]]
        assert min(held) > 0
        assert not caplog.records
    with sharded(tmp_path, shards=4) as buffer:
        assert len(buffer) == 60 - held[4]
        assert f"{held[4]} of the newest 60 rows are in no shard that is here" in caplog.text


def test_rows_of_a_shard_whose_folder_is_gone_are_missing_and_the_others_are_there(tmp_path: Path) -> None:
    with sharded(tmp_path) as buffer:
        buffer.put({"id": np.arange(60)})
        held = buffer.info()["shards"][1]["rows"]
    (tmp_path / "shard-001").rename(tmp_path / "gone")
    with sharded(tmp_path) as buffer:
        assert len(buffer) == 60 - held
        found = buffer.take(np.arange(len(buffer)))["id"]
        assert (np.diff(found) > 0).all()
        assert set(buffer.sample(200)["id"]) <= set(found)
        buffer.put({"id": np.arange(60)})
        assert buffer.take(np.arange(60))["id"].tolist() == list(range(60))
