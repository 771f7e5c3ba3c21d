"""A buffer on disk: another process opens the same rows, and every method works as in memory."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings

import duckdb
import numpy as np
import pytest

from really import ReplayBuffer, SampleManager
from really.errors import LockedError, ReadOnlyError
from tests.rows import CAPACITY, FILLS, assert_same_rows, rows

WIDE = {"number": np.int64, "wide": (np.int64, (100,)), "flag": np.int64}


def on_disk(folder, num=0, capacity=CAPACITY, spare=4):
    """A buffer at `folder` into which rows 0 to `num` have been put, three at a time."""
    buffer = ReplayBuffer(capacity, path=folder, spare=spare, seed=3)
    buffer.put(rows(0, 0))
    for first in range(0, num, 3):
        buffer.put(rows(first, min(3, num - first)))
    return buffer


def in_memory(num, capacity=CAPACITY):
    buffer = ReplayBuffer(capacity, seed=3)
    buffer.put(rows(0, 0))
    for first in range(0, num, 3):
        buffer.put(rows(first, min(3, num - first)))
    return buffer


def numbered(first, num):
    number = np.arange(first, first + num)
    return {"number": number, "wide": np.repeat(number[:, None], 100, axis=1), "flag": number}


def assert_whole(batch):
    assert np.array_equal(batch["number"], batch["flag"])
    assert (batch["wide"] == batch["number"][:, None]).all()


def in_process(code, *arguments):
    """The output of a new process that runs `code`."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("num", FILLS.values(), ids=FILLS)
def test_it_is_the_buffer_in_memory_before_and_after_reopening(tmp_path, num):
    disk, memory = on_disk(tmp_path / "b", num), in_memory(num)
    assert_same_rows(disk, memory)
    if num:
        assert disk.sample(7)["state"].tolist() == memory.sample(7)["state"].tolist()
    disk.close()
    disk = ReplayBuffer(CAPACITY, path=tmp_path / "b")
    assert_same_rows(disk, memory)
    for buffer in (disk, memory):
        buffer.put(rows(100, 5))
    assert_same_rows(disk, memory)
    assert disk.sample((2, 4))["image"].tolist() == memory.sample((2, 4))["image"].tolist()
    assert disk.sample_indices(5, replace=False).tolist() == memory.sample_indices(5, replace=False).tolist()
    assert str(disk.state_dict()) == str(memory.state_dict())


@pytest.mark.parametrize("again", [
    {"keys": tuple(rows(0, 0))},
    {"spec": in_memory(0).spec},
    {"keys": tuple(reversed(rows(0, 0))), "seed": 9},
    {"spare": 4},
    {},
])  # fmt: skip
def test_what_says_the_same_goes_on_with_it(tmp_path, again):
    on_disk(tmp_path / "b", 12).close()
    with ReplayBuffer(CAPACITY, path=tmp_path / "b", **again) as buffer:
        assert_same_rows(buffer, in_memory(12))
        assert buffer.keys == tuple(rows(0, 0))


def test_cleared_stays_cleared(tmp_path):
    buffer = on_disk(tmp_path / "b", 12)
    buffer.clear()
    buffer.put(rows(50, 2))
    buffer.close()
    buffer = ReplayBuffer(CAPACITY, path=tmp_path / "b")
    assert buffer.take(range(len(buffer)))["reward"].tolist() == [50, 51]


def test_a_generator_set_by_hand_is_kept(tmp_path):
    buffer, other = on_disk(tmp_path / "b", 12), in_memory(12)
    other.sample(5)
    buffer.load_state_dict(other.state_dict())
    buffer.close()
    assert str(ReplayBuffer(CAPACITY, path=tmp_path / "b").state_dict()) == str(other.state_dict())


def test_a_put_of_more_than_the_spare_and_of_more_than_fits(tmp_path):
    buffer = on_disk(tmp_path / "b", 0, capacity=20, spare=3)
    buffer.put(rows(0, 15))
    buffer.put(rows(15, 50))
    assert buffer.take(range(20))["reward"].tolist() == list(range(45, 65))


def test_a_folder_without_a_schema_yet_is_an_empty_buffer(tmp_path):
    buffer = ReplayBuffer(5, ["reward"], path=tmp_path / "deep" / "b", seed=1)
    assert buffer.path == tmp_path / "deep" / "b"
    assert len(buffer) == 0
    assert os.listdir(buffer.path) == ["lock"]
    del buffer
    with ReplayBuffer(6, ["reward"], path=tmp_path / "deep" / "b") as buffer:
        buffer.put({"reward": [1.0]})
        assert len(buffer) == 1
        assert "path=" in repr(buffer)


def test_the_folder_is_one_for_any_process(tmp_path):
    on_disk(tmp_path / "b", 7).close()
    code = """
import sys
from really import ReplayBuffer
with ReplayBuffer.open(sys.argv[1], "r+") as buffer:
    buffer.put({key: column[:2] for key, column in buffer.take([0, 1]).items()})
    print(len(buffer), buffer.capacity, buffer.path)
"""
    assert in_process(code, tmp_path / "b") == f"9 10 {tmp_path / 'b'}"
    assert ReplayBuffer.open(tmp_path / "b").take(range(9))["reward"].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_one_writes_and_others_read(tmp_path):
    writer = on_disk(tmp_path / "b", 5)
    code = """
import sys
from really import LockedError, ReplayBuffer
try:
    ReplayBuffer.open(sys.argv[1], "r+")
except LockedError as error:
    print(error)
print(len(ReplayBuffer.open(sys.argv[1])))
"""
    said, held = in_process(code, tmp_path / "b").splitlines()
    assert f"nobody else writes, but process {os.getpid()} does; open it with mode='r'" in said
    assert held == "5"
    with pytest.raises(LockedError, match=r"another buffer of this process does; close that one: buffer\.close\(\)"):
        ReplayBuffer(CAPACITY, path=tmp_path / "b")
    del writer
    gc.collect()
    ReplayBuffer(CAPACITY, path=tmp_path / "b").close()


def test_a_reader_sees_what_the_writer_puts_and_clears(tmp_path):
    writer = on_disk(tmp_path / "b", 5)
    reader = ReplayBuffer.open(tmp_path / "b", seed=1)
    state = writer.state_dict()
    assert len(reader) == 5
    writer.put(rows(5, 8))
    assert len(reader) == 10
    assert_same_rows(reader, writer)
    assert reader.sample(500)["reward"].min() == 3
    assert str(writer.state_dict()) == str(state)
    writer.clear()
    assert len(reader) == 0


def test_readers_are_refused_what_is_the_writers(tmp_path):
    writer = on_disk(tmp_path / "b", 5)
    reader = ReplayBuffer.open(tmp_path / "b")
    for call in (lambda: reader.put(rows(0, 1)), lambda: reader.put({"reward": 1}), reader.clear, reader.flush):
        with pytest.raises(ReadOnlyError, match="expected a buffer opened for writing, got one of mode 'r'"):
            call()
    assert_same_rows(reader, writer)


def test_a_reader_never_sees_a_torn_row_while_the_writer_overwrites(tmp_path):
    code = """
import sys
import numpy as np
from really import ReplayBuffer
buffer = ReplayBuffer.open(sys.argv[1], "r+")
first = 0
while True:
    number = np.arange(first, first + 150)
    buffer.put({"number": number, "wide": np.repeat(number[:, None], 100, axis=1), "flag": number})
    first += 150
"""
    folder = tmp_path / "b"
    ReplayBuffer(200, spec=WIDE, path=folder, spare=100).close()
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE)
    try:
        reader, seen = ReplayBuffer.open(folder, seed=0), set()
        while len(reader) < 200:
            assert writer.poll() is None, writer.stderr.read()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            batch = reader.sample(20)
            assert_whole(batch)
            seen.add(int(batch["number"].max()) // 150)
            assert_whole(reader.take([199, 150]))
            assert_whole(reader.sample(5, replace=False))
    finally:
        writer.kill()
        writer.communicate()
    assert len(seen) > 10


def test_a_forked_process_reads_and_does_not_write(tmp_path):
    buffer = ReplayBuffer(10, spec=WIDE, path=tmp_path / "b", seed=0)
    buffer.put(numbered(0, 8))
    before = [(tmp_path / "b" / name).read_bytes() for name in ("records", "cursor")]

    def check():
        assert_whole(buffer.sample(50))
        buffer.load_state_dict(buffer.state_dict())
        for call in (lambda: buffer.put(numbered(0, 1)), buffer.clear, buffer.flush):
            with pytest.raises(ReadOnlyError, match="got one forked from it"):
                call()
        assert len(buffer) == 8
        buffer.close()

    assert forked(check) == 0
    assert [(tmp_path / "b" / name).read_bytes() for name in ("records", "cursor")] == before
    buffer.put(numbered(8, 2))
    assert len(buffer) == 10


def test_batches_that_start_again_in_a_forked_process_write_no_generator_to_the_folder(tmp_path):
    buffer = ReplayBuffer(10, spec=WIDE, path=tmp_path / "b", seed=0)
    buffer.put(numbered(0, 8))
    with buffer.batches(4, prefetch=1) as batches:
        next(batches)
        worker = batches._worker
        while worker._ready.empty():
            time.sleep(0.001)
        before = (tmp_path / "b" / "cursor").read_bytes()
        assert forked(lambda: assert_whole(next(batches))) == 0
        assert (tmp_path / "b" / "cursor").read_bytes() == before


def test_a_forked_process_that_lives_on_does_not_hold_the_lock(tmp_path):
    buffer = ReplayBuffer(10, spec=WIDE, path=tmp_path / "b")
    read, write = os.pipe()
    child = forking()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    try:
        buffer.close()
        ReplayBuffer(10, path=tmp_path / "b").close()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def forking():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks among threads
        return os.fork()


def forked(check):
    child = forking()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_closing_ends_it_and_leaves_batches_alone(tmp_path):
    buffer = on_disk(tmp_path / "b", 8)
    batch = buffer.take(range(8))
    copies = {key: column.copy() for key, column in batch.items()}
    buffer.close()
    buffer.close()
    assert {key: column.tobytes() for key, column in batch.items()} == {
        key: column.tobytes() for key, column in copies.items()
    }
    calls = {
        "put": lambda: buffer.put(rows(0, 1)),
        "sample": lambda: buffer.sample(1),
        "take": lambda: buffer.take([0]),
        "clear": buffer.clear,
        "flush": buffer.flush,
        "open_reader": buffer.open_reader,
        "to_arrow": buffer.to_arrow,
        "pickling": lambda: pickle.dumps(buffer),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name}: .*expected an open buffer, got one that has been closed"):
            call()


def test_threads_that_put_and_sample_while_it_is_closed(tmp_path):
    buffer = ReplayBuffer(200, spec=WIDE, path=tmp_path / "b", spare=50)
    buffer.put(numbered(0, 200))
    outcomes = []

    def work(call):
        try:
            while True:
                call()
        except Exception as error:
            outcomes.append(type(error).__name__)

    jobs = (lambda: buffer.put(numbered(0, 120)), lambda: assert_whole(buffer.sample(100)))
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs * 2]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    buffer.close()
    for thread in threads:
        thread.join(20)
    assert outcomes == ["ClosedError"] * 4
    with ReplayBuffer(200, path=tmp_path / "b", spare=50) as again:
        assert_whole(again.take(range(len(again))))


def test_mappings_and_handles_go_with_the_buffer(tmp_path):
    def mapped():
        with open("/proc/self/maps") as maps:
            return sum(str(tmp_path) in line for line in maps), len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = mapped()
    buffer = on_disk(tmp_path / "b", 8)
    assert mapped()[0] == 2
    del buffer
    assert mapped() == before


def test_reopening_a_large_one_takes_no_time(tmp_path):
    spec = {"image": (np.uint8, (84, 84, 4)), "reward": np.float32}
    ReplayBuffer(1_000_000, spec=spec, path=tmp_path / "b", overcommit=True).close()
    started = time.perf_counter()
    buffer = ReplayBuffer.open(tmp_path / "b", "r+")
    assert time.perf_counter() - started < 1
    assert buffer.nbytes > 28e9
    assert sum(file.stat().st_blocks * 512 for file in (tmp_path / "b").iterdir()) < 1 << 20


def test_all_that_goes_in_and_out_works_on_it(tmp_path):
    buffer = on_disk(tmp_path / "b", 27)
    expected = in_memory(27)
    readable = expected.to_arrow(["reward"])
    assert_same_rows(pickle.loads(pickle.dumps(buffer)), expected)
    buffer.save(tmp_path / "saved")
    loaded = ReplayBuffer.load(tmp_path / "saved")
    assert loaded.path is None
    assert_same_rows(loaded, expected)
    buffer.to_parquet(tmp_path / "rows.parquet")
    assert_same_rows(ReplayBuffer.from_parquet(tmp_path / "rows.parquet"), expected)
    live = ReplayBuffer.from_arrow(readable, 10, path=tmp_path / "c")
    assert duckdb.sql("select avg(reward) from live").fetchall() == [(21.5,)]
    assert live.path == tmp_path / "c"


def test_a_pickle_of_a_reader_opens_the_same_folder(tmp_path):
    writer = on_disk(tmp_path / "b", 5)
    reader = ReplayBuffer.open(tmp_path / "b", seed=1)
    copy = pickle.loads(pickle.dumps(reader))
    writer.put(rows(5, 1))
    assert len(copy) == 6
    assert copy.sample(9)["reward"].tolist() == reader.sample(9)["reward"].tolist()


def test_flush_returns_and_changes_nothing(tmp_path):
    buffer = on_disk(tmp_path / "b", 8)
    buffer.flush()
    assert_same_rows(buffer, in_memory(8))
    in_memory(3).flush()


def test_a_manager_keeps_its_buffer_on_disk(tmp_path):
    from tests.models import QNet

    def make():
        manager = SampleManager(
            QNet, "CartPole-v1", 2, total_steps=20, use_ray=False, seed=1, model_kwargs={"num_actions": 2}
        )
        manager.initilize_buffer(50, path=tmp_path / "b")
        return manager

    manager = make()
    manager.store_in_buffer(manager.get_data())
    held = len(manager.buffer)
    manager.buffer.close()
    assert len(make().buffer) == held >= 20


@pytest.mark.parametrize("plan", [{"dedup": False}, {"stack": (4, 0)}, {"stack": (4, -1)}])
def test_rows_that_the_disk_is_asked_for_early_are_the_same_rows(tmp_path, plan):
    """As in a buffer larger than memory, whose records and frames are prefetched from disk before the copy."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 255, (301, 4, 20, 20), np.uint8)
    for step in range(1, 301):
        frames[step, :-1] = frames[step - 1, 1:]
    if plan.get("stack") == (4, -1):
        frames = np.ascontiguousarray(np.moveaxis(frames, 1, -1))
    data = {"state": frames[:-1], "state_new": frames[1:], "number": np.arange(300)}
    with ReplayBuffer(200, path=tmp_path / "b", spare=50, seed=0, **plan) as buffer:
        buffer.put(data)
        buffer._ring.prefetches_from_disk = True
        for _ in range(20):
            batch = buffer.sample(64)
            for key in ("state", "state_new"):
                assert np.array_equal(batch[key], data[key][batch["number"]])
        batch = buffer.sample((3, 5))
        assert np.array_equal(batch["state"], data["state"][batch["number"]])
