"""Saved buffers: every fill level comes back, other threads put meanwhile, damaged files are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from really import EmptyBufferError, InvalidValueError, ReallyError, ReplayBuffer
from really.errors import FileError, OvertakenError
from really.replay.io.saving import describe, save
from really.service import ShardedBuffer
from tests.rows import CAPACITY, FILLS, assert_same_rows, filled, numbered, rows, wide

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("num", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_loaded_buffer_goes_on_as_the_saved_one(tmp_path, num, compression):
    buffer = filled(num)
    if num:
        buffer.sample(5)
    buffer.save(tmp_path / "buffer", compression=compression)
    loaded = ReplayBuffer.load(tmp_path / "buffer")
    assert loaded.capacity == CAPACITY
    assert_same_rows(buffer, loaded)
    for first in (100, 103, 106, 109):
        buffer.put(rows(first, 3))
        loaded.put(rows(first, 3))
        assert_same_rows(buffer, loaded)
        assert buffer.sample_indices(50).tolist() == loaded.sample_indices(50).tolist()


def test_rows_that_take_many_chunks_come_back_in_order(tmp_path):
    buffer = numbered(1500, 1000)
    save(buffer, tmp_path / "buffer", chunk_bytes=7000)
    assert_same_rows(buffer, ReplayBuffer.load(tmp_path / "buffer"))
    with pa.ipc.open_file(str(tmp_path / "buffer")) as file:
        assert file.num_record_batches > 30


def test_a_buffer_without_schema_comes_back(tmp_path):
    buffer = ReplayBuffer(7, ["state", "reward"], seed=1)
    buffer.save(tmp_path / "buffer")
    loaded = ReplayBuffer.load(tmp_path / "buffer")
    assert (loaded.capacity, loaded.keys, loaded.spec) == (7, ("state", "reward"), None)
    with pytest.raises(EmptyBufferError, match="expected a buffer whose schema is known"):
        loaded.open_reader()


def test_bytes_that_numbers_do_not_show_come_back(tmp_path):
    odd = {
        "float": np.array([0x7FC01234, 0xFF800001, 0x80000000], np.uint32).view(np.float32),
        "half": np.array([0x7E01, 0xFC01, 0x8000], np.uint16).view(np.float16),
        "wave": np.array([complex(-0.0, np.nan), complex(np.inf, -0.0), 0j], np.complex128),
        "moment": np.array(["NaT", "1970-01-01", "2026-11-24"], "datetime64[s]"),
        "big": np.array([2**63, 2**64 - 1, 0], np.uint64),
    }
    buffer = ReplayBuffer(3)
    buffer.put(odd)
    buffer.save(tmp_path / "buffer")
    assert_same_rows(buffer, ReplayBuffer.load(tmp_path / "buffer"))


def test_any_arrow_reader_opens_it(tmp_path):
    filled(4).save(tmp_path / "buffer")
    with pa.ipc.open_file(str(tmp_path / "buffer")) as file:
        table = file.read_all()
    assert table["reward"].to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert table["wave"].to_pylist()[1] == {"re": 1.0, "im": 2.0}
    assert describe(tmp_path / "buffer")["num_rows"] == 4


def test_an_older_checkpoint_is_replaced_and_nothing_else_left(tmp_path):
    filled(3).save(tmp_path / "buffer")
    filled(27).save(tmp_path / "buffer")
    assert_same_rows(filled(27), ReplayBuffer.load(tmp_path / "buffer"))
    assert [path.name for path in tmp_path.iterdir()] == ["buffer"]


def test_puts_wait_only_where_they_would_drop_what_is_not_saved(tmp_path):
    buffer = numbered(100, 100)
    done = threading.Event()

    def put():
        buffer.put(wide(100, 30))
        done.set()

    with buffer.open_reader(keeps=True) as reader:
        assert reader.read(20)["number"].tolist() == list(range(20))
        buffer.put(wide(98, 0))
        thread = threading.Thread(target=put)
        thread.start()
        assert not done.wait(0.2), "rows 20 to 30 have not been read"
        assert reader.read(10)["number"].tolist() == list(range(20, 30))
        assert done.wait(10)
        assert reader.read(1000)["number"].tolist() == list(range(30, 100))
        thread.join()
    assert buffer.take([0, 99])["number"].tolist() == [30, 30 + 99]


def test_a_put_of_more_rows_than_fit_waits_for_all(tmp_path):
    buffer = numbered(50, 50)
    with buffer.open_reader(keeps=True) as reader:
        thread = threading.Thread(target=buffer.put, args=(wide(50, 200),))
        thread.start()
        reader.read(49)
        thread.join(0.1)
        assert thread.is_alive()
        assert reader.read(1)["number"].tolist() == [49]
        thread.join(10)
    assert buffer.take([0])["number"].tolist() == [200]


def test_a_thread_that_would_wait_for_itself_is_told():
    buffer = numbered(50, 50)
    with buffer.open_reader(keeps=True) as reader:
        reader.read(10)
        buffer.put(wide(50, 10))
        with pytest.raises(InvalidValueError, match=r"drop at most 0 rows as long as this thread .* that drops 1"):
            buffer.put(wide(60, 1))
        assert reader.read(40)["number"].tolist() == list(range(10, 50))
    buffer.put(wide(60, 1))
    assert buffer.take([0, 49])["number"].tolist() == [11, 60]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_fork_neither_waits_for_readers_of_its_parent_nor_reads_for_them():
    code = """
import os, threading
from really import OvertakenError
from tests.rows import numbered, wide
buffer, held, done = numbered(100, 100), threading.Event(), threading.Event()
reader = buffer.open_reader(keeps=True)
reader.read(5)
def hold():
    with buffer._readers.lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    buffer.put(wide(500, 50))
    try:
        reader.read(5)
    except OvertakenError:
        os._exit(7 if buffer.take([99])["number"] == 549 else 1)
    os._exit(2)
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), reader.read(5)["number"].tolist())
"""
    assert run(code).strip() == "7 [5, 6, 7, 8, 9]"


def test_clear_waits_for_a_save_and_ends_a_stream():
    buffer = numbered(50, 50)
    with buffer.open_reader() as reader:
        reader.read(5)
        buffer.clear()
        with pytest.raises(OvertakenError, match="at row 5 the next 45 had been dropped"):
            reader.read(5)
    buffer.put(wide(0, 50))
    with buffer.open_reader(keeps=True) as reader:
        thread = threading.Thread(target=buffer.clear)
        thread.start()
        assert reader.read(50)["number"].tolist() == list(range(50))
        thread.join(10)
    assert len(buffer) == 0


def test_what_is_saved_while_others_put_and_sample_is_one_moment(tmp_path):
    capacity, stop = 20_000, threading.Event()
    buffer = numbered(capacity, capacity)

    def put(first=capacity):
        while not stop.is_set():
            num = 1 + first % 700
            buffer.put(wide(first, num))
            first += num

    def sample():
        while not stop.is_set():
            batch = buffer.sample(64)
            assert (batch["copies"] == batch["number"][:, None]).all()

    threads = [threading.Thread(target=target) for target in (put, sample)]
    for thread in threads:
        thread.start()
    firsts = []
    try:
        for turn in range(8):
            save(buffer, tmp_path / str(turn), compression="none", chunk_bytes=200_000)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for turn in range(8):
        loaded = ReplayBuffer.load(tmp_path / str(turn))
        saved = loaded.take(np.arange(capacity))
        assert (np.diff(saved["number"]) == 1).all(), "no row twice, none missing"
        assert (saved["copies"] == saved["number"][:, None]).all()
        firsts.append(int(saved["number"][0]))
    assert firsts == sorted(firsts)
    assert firsts[-1] > firsts[0], "puts went on"


def test_a_put_under_way_when_a_reader_opens_comes_before_it_or_waits_for_it():
    buffer, numbers = numbered(300, 300), []

    def read():
        with buffer.open_reader(keeps=True) as reader:
            while reader.num_left:
                numbers.extend(reader.read(10)["number"].tolist())

    putting = threading.Thread(target=buffer.put, args=(wide(300, 100),))
    reading = threading.Thread(target=read)
    buffer._ring.acquire()
    try:
        putting.start()
        putting.join(0.1)
        reading.start()
        reading.join(0.1)
        assert putting.is_alive()
        assert reading.is_alive()
        assert not numbers
    finally:
        buffer._ring.release()
    putting.join(10)
    reading.join(10)
    assert numbers in (list(range(300)), list(range(100, 400)))
    assert buffer.take([0, 299])["number"].tolist() == [100, 399]


@pytest.mark.parametrize("num", [1, 7, 1000], ids=["one row", "few rows", "more than fit"])
def test_no_put_drops_a_row_of_a_reader_that_opens_amid_puts(num):
    """Writers put all the time, so most readers open while a put has already checked for readers."""
    buffer, stop = numbered(500, 500), threading.Event()
    failures = []

    def put(writer):
        first = writer << 32
        while not stop.is_set():
            rows = wide(first, num)
            buffer.put(rows if num > 1 else {key: column[0] for key, column in rows.items()})
            first += num

    def read():
        try:
            while not stop.is_set():
                with buffer.open_reader(keeps=True) as reader:
                    assert_whole_runs(np.concatenate([reader.read(60)["number"] for _ in range(9)]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(writer,)) for writer in (1, 2, 3)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        stop.wait(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        sys.setswitchinterval(switch)
    assert not any(thread.is_alive() for thread in threads), "a put waits for nobody"
    assert not failures
    assert not buffer._readers.keepers


def assert_whole_runs(numbers):
    """The newest 500 rows, with no gap between the first and the last row of each writer."""
    assert len(numbers) == 500
    for writer in range(4):
        own = numbers[numbers >> 32 == writer]
        assert (np.diff(own) == 1).all()


def test_a_put_in_pieces_that_would_wait_for_its_own_thread_puts_none():
    buffer = numbered(50, 50)
    rows = numbered(6, 6).to_arrow().read_all()
    table = pa.concat_tables([rows.slice(0, 3), rows.slice(3)])
    with buffer.open_reader(keeps=True) as reader:
        reader.read(4)
        with pytest.raises(InvalidValueError, match=r"drop at most 4 rows .* that drops 6"):
            buffer.put(table)
        assert buffer.take([0, 49])["number"].tolist() == [0, 49]
        reader.read(2)
        buffer.put(table)
    assert buffer.take([0, 49])["number"].tolist() == [6, 5]


def test_of_several_readers_the_one_furthest_behind_counts():
    buffer = numbered(50, 50)
    with buffer.open_reader(keeps=True) as first, buffer.open_reader(keeps=True) as second:
        first.read(30)
        second.read(10)
        buffer.put(wide(50, 10))
        with pytest.raises(InvalidValueError, match="drop at most 0 rows"):
            buffer.put(wide(60, 1))
        second.close()
        buffer.put(wide(60, 20))
        assert first.read(20)["number"].tolist() == list(range(30, 50))
        buffer.put(wide(80, 50))
    assert buffer.take([0])["number"].tolist() == [80]


def test_rows_put_after_a_reader_has_opened_are_not_kept():
    buffer = ReplayBuffer(10, spec=numbered(1, 1).spec)
    with buffer.open_reader(keeps=True) as reader:
        assert reader.num_rows == 0
        buffer.put(wide(0, 10))
        buffer.put(wide(10, 25))
        buffer.clear()
    assert len(buffer) == 0


def test_loading_what_is_cut_or_damaged_is_refused(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "buffer"
    save(numbered(300, 200), whole, chunk_bytes=5000, compression="none")
    content = whole.read_bytes()
    for length in (0, 3, 6, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InvalidValueError, match=r"buffer: expected a saved buffer"):
            ReplayBuffer.load(path)
    original, refused = ReplayBuffer.load(whole), 0
    for at in np.linspace(10, len(content) - 10, 200).astype(int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            assert_same_rows(original, ReplayBuffer.load(path))
        except InvalidValueError:
            refused += 1
    assert refused > 150, "the rest hit padding"


def test_damage_names_the_rows(tmp_path):
    path = tmp_path / "buffer"
    save(numbered(100, 100), path, chunk_bytes=264 * 10, compression="none")
    content = bytearray(path.read_bytes())
    at = content.index(np.full(64, 37, np.float32).tobytes())
    content[at + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match="rows 30 to 39 are damaged"):
        ReplayBuffer.load(path)


def test_other_files_are_neither_loaded_nor_replaced(tmp_path):
    buffer = filled(3)
    (tmp_path / "notes").write_text("something else")
    with pytest.raises(InvalidValueError, match="got a file that starts with b'somethin'"):
        buffer.save(tmp_path / "notes")
    with pytest.raises(InvalidValueError, match="got a folder"):
        buffer.save(tmp_path)
    assert (tmp_path / "notes").read_text() == "something else"
    for path, got in ((tmp_path / "notes", "starts with"), (tmp_path, "a folder"), (tmp_path / "none", "nothing")):
        with pytest.raises(InvalidValueError, match=got):
            ReplayBuffer.load(path)
    with pa.OSFile(str(tmp_path / "table"), "wb") as file, pa.ipc.new_file(file, pa.schema([("a", pa.int8())])):
        pass
    with pytest.raises(InvalidValueError, match=r"got another Arrow file, of columns \['a'\]"):
        ReplayBuffer.load(tmp_path / "table")


def test_a_path_that_cannot_be_written_says_so(tmp_path):
    buffer = filled(3)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "buffer", tmp_path / "file" / "buffer", Path("/proc/buffer")):
        with pytest.raises(FileError, match="expected to write a saved buffer, but"):
            buffer.save(path)
    with pytest.raises(InvalidValueError, match=r"compression: expected one of .* got 'zst'"):
        buffer.save(tmp_path / "buffer", compression="zst")
    assert not buffer._readers.keepers
    buffer.put(rows(3, 20))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_disk_that_is_full_leaves_old_file_and_buffer_as_they_were(tmp_path):
    code = f"""
import resource, signal
from pathlib import Path
from tests.rows import numbered, wide, assert_same_rows
from really import FileError, ReplayBuffer
folder = Path({str(tmp_path)!r})
numbered(10, 10).save(folder / "buffer")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
buffer = numbered(5000, 5000)
for write, path in ((buffer.save, folder / "buffer"), (buffer.to_parquet, folder / "parquet")):
    try:
        write(path, compression="none")
    except FileError as error:
        print(error)
buffer.put(wide(5000, 4000))
assert buffer.take([0])["number"] == 4000
assert_same_rows(ReplayBuffer.load(folder / "buffer"), numbered(10, 10))
print([path.name for path in folder.iterdir()])
"""
    lines = run(code).splitlines()
    assert [line.rpartition("but ")[2] for line in lines[:2]] == ["File too large"] * 2
    assert lines[2] == "['buffer']"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("write", ["save", "to_parquet"])
def test_saving_takes_a_few_chunks_of_memory(tmp_path, write):
    code = f"""
from tests.rows import numbered, wide
import numpy as np, re
import pyarrow.parquet
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
path = Path({str(tmp_path)!r}) / "file"
numbered(10, 10).{write}(path)
buffer = numbered(1, 1_000_000)
copies = np.random.default_rng(0).random((1000, 64), dtype=np.float32)
for first in range(0, 1_000_000, 1000):
    buffer.put({{"number": np.arange(first, first + 1000), "copies": copies}})
before = peak()
buffer.{write}(path)
print(peak() - before)
"""
    megabytes = float(run(code))
    assert megabytes < {"save": 40, "to_parquet": 120}[write], "the rows take 264"


def test_puts_never_wait_for_a_reader_that_does_not_keep_rows():
    buffer = numbered(1000, 1000)
    with buffer.open_reader() as reader:
        buffer.put(wide(1000, 1))
        assert reader.read(100)["number"].tolist() == list(range(1, 101)), "which rows is fixed by the first read"
        buffer.put(wide(1001, 100))
        assert reader.read(100)["number"].tolist() == list(range(101, 201)), "it was ahead of the put"
        buffer.put(wide(1101, 105))
        with pytest.raises(OvertakenError, match=r"expected 1,000 rows .* at row 200 the next 5 had been dropped"):
            reader.read(100)


def test_a_full_buffer_is_read_while_others_put():
    buffer, stop = numbered(20_000, 20_000), threading.Event()

    def put(first=20_000):
        while not stop.is_set():
            buffer.put(wide(first, 50))
            first += 50
            time.sleep(1e-3)

    thread = threading.Thread(target=put)
    thread.start()
    try:
        for _ in range(10):
            with buffer.open_reader() as reader:
                numbers = np.concatenate([reader.read(5000)["number"] for _ in range(4)])
            assert (np.diff(numbers) == 1).all()
            assert len(numbers) == 20_000
    finally:
        stop.set()
        thread.join()


def test_a_closed_buffer_is_no_empty_one(tmp_path):
    with ReplayBuffer(50, path=tmp_path / "b") as buffer:
        buffer.put({"reward": np.arange(20.0)})
        buffer.save(tmp_path / "saved")
    with pytest.raises(ReallyError, match=r"save: .*expected an open buffer, got one that has been closed"):
        buffer.save(tmp_path / "saved")
    assert len(ReplayBuffer.load(tmp_path / "saved")) == 20


def test_a_name_may_be_any_bytes_of_the_system(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9"))
    folder.mkdir()
    with ReplayBuffer(CAPACITY, path=folder / "ring", alpha=0.6) as buffer:
        buffer.put(rows(0, 5))
        buffer.save(folder / "saved")
        buffer.to_parquet(folder / "rows.parquet")
    buffer = ReplayBuffer.load(folder / "saved")
    assert_same_rows(buffer, ReplayBuffer.open(folder / "ring"))
    assert len(ReplayBuffer.from_parquet(folder)) == len(buffer) == describe(folder / "saved")["num_rows"] == 5


OPTIONS = {
    "plain": {},
    "episodes": {"unit": "episodes"},
    "n steps": {"n_step": 3, "gamma": 0.9},
    "priorities": {"alpha": 0.6},
    "recent experience": {"sampler": ("ere", {"eta": 0.1, "eta_end": 1.0, "anneal_rows": 100, "least": 1})},
}


def through(way, buffer, folder):
    if way == "pickle":
        return pickle.loads(pickle.dumps(buffer))
    buffer.save(folder / "saved")
    saved = folder / "saved"
    return ShardedBuffer.load(saved, shards=3) if way == "save into shards" else ReplayBuffer.load(saved)


@pytest.mark.parametrize("way", ["pickle", "save", "save into shards", "save from shards", "save from disk"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_copy_has_the_numbers_of_the_rows(options, way, tmp_path):
    """Beginnings of episodes and shares that change with the rows put follow from them."""
    make = ShardedBuffer if way == "save from shards" else ReplayBuffer
    given = {"path": tmp_path / "folder"} if way == "save from disk" else {}
    given |= {"shards": 2} if way == "save from shards" else {}
    buffer = make(20, seed=1, **given, **OPTIONS[options])
    ids = np.arange(60)
    ends = (ids % 7 == 6).astype(np.float32)
    rows = {"id": ids, "reward": ids.astype(np.float32), "terminal": ends, "episode_end": ends, "state_new": ids}
    for first in range(0, 48, 12):
        buffer.put({key: column[first : first + 12] for key, column in rows.items()})
    buffer.remove([30])
    copy = through(way, buffer, tmp_path)
    for _ in range(2):
        assert copy.numbers().tolist() == buffer.numbers().tolist()
        assert copy.episodes().equals(buffer.episodes())
        batches = [one.sample((4, 64)) for one in (copy, buffer)]
        assert all(np.array_equal(*(batch[key] for batch in batches)) for key in batches[0])
        for one in (copy, buffer):
            one.put({key: column[48:] for key, column in rows.items()})


def test_a_copy_of_few_rows_takes_the_memory_of_few(tmp_path):
    buffer = numbered(1500, 1000)
    buffer.clear()
    buffer.put(wide(1500, 5))
    for way in ("pickle", "save"):
        copy = through(way, buffer, tmp_path)
        assert copy.numbers().tolist() == list(range(1500, 1505))
        assert copy.memory()["held"] == numbered(5, 1000).memory()["held"]
