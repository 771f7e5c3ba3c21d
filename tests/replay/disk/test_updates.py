"""Columns of rows on disk are written: durable, whole or not at all, with checksums, readers and kills."""

from __future__ import annotations

import threading
import time
import zlib

import numpy as np
import pytest

from really import FileError, InvalidFileError, InvalidValueError, LockedError, ReadOnlyError, ReplayBuffer
from really.replay.disk import changeable, update_file
from tests.scripts import killed_after

NUM = 600


def rows(first=0, num=NUM):
    number = np.arange(first, first + num)
    return {"number": number, "hidden": np.zeros((num, 40), np.float32), "reward": number.astype(np.float32)}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "buffer"


@pytest.fixture
def buffer(folder):
    with ReplayBuffer(NUM, path=folder, seed=0) as made:
        made.put(rows())
        yield made


def everything(buffer):
    return buffer.take(np.arange(len(buffer)))


def test_values_are_those_of_a_buffer_in_memory(buffer, folder):
    memory = ReplayBuffer(NUM, seed=0)
    memory.put(rows())
    for held in (buffer, memory):
        held.put(rows(NUM, 100))
        held.remove([300])
        values = np.random.default_rng(0).normal(size=(5, 40))
        assert held.update([10, 100, 300, 500, 500], {"hidden": values, "reward": np.arange(5.0)}) == 3
        assert held.update([3], {"reward": [1.0]}) == 0
    expected = everything(memory)
    for key, column in everything(buffer).items():
        np.testing.assert_array_equal(column, expected[key])
    buffer.close()
    assert not (folder / update_file.NAME).exists()
    for mode in ("r", "r+"):
        with ReplayBuffer.open(folder, mode) as again:
            for key, column in everything(again).items():
                np.testing.assert_array_equal(column, expected[key])


def test_what_is_refused_changes_nothing(buffer, folder):
    before = everything(buffer)
    for numbers, columns, message in (
        ([NUM], {"reward": [1.0]}, "numbers: expected numbers of rows that were put"),
        ([1], {"rewards": [1.0]}, "update: expected one of"),
        ([1], {"hidden": np.zeros((1, 41))}, r"update: key 'hidden': expected shape \[1, 40\], got \[1, 41\]"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            buffer.update(numbers, columns)
    buffer.flush()
    with ReplayBuffer.open(folder) as reader, pytest.raises(ReadOnlyError, match=r"update: .*mode 'r'"):
        reader.update([1], {"reward": [1.0]})
    for key, column in everything(buffer).items():
        np.testing.assert_array_equal(column, before[key])


def test_a_full_disk_changes_nothing(buffer, folder, monkeypatch):
    before = everything(buffer)

    def full(*_):
        raise FileError(28, f"{folder / update_file.NAME}: no room")

    monkeypatch.setattr(update_file, "write", full)
    with pytest.raises(FileError, match="no room"):
        buffer.update([1, 2], {"reward": [8.0, 9.0]})
    for key, column in everything(buffer).items():
        np.testing.assert_array_equal(column, before[key])
    monkeypatch.undo()
    assert buffer.update([1, 2], {"reward": [8.0, 9.0]}) == 2


@pytest.mark.parametrize("numbers", [[0], [599], [5, 300, 301], np.arange(NUM)])
def test_checksums_are_those_of_the_new_values(buffer, folder, numbers):
    buffer.flush()
    assert len(buffer.verify().unchecked) == 0
    buffer.update(numbers, {"reward": -np.ones(len(numbers))})
    found = buffer.verify()
    assert found.is_whole
    assert set(numbers) <= set(found.unchecked.tolist())
    buffer.flush()
    assert (len(buffer.verify().unchecked), buffer.verify().is_whole) == (0, True)
    buffer.update(numbers, {"reward": -2 * np.ones(len(numbers))})
    buffer.close()
    with ReplayBuffer.open(folder) as reader:
        assert (len(reader.verify().unchecked), reader.verify().is_whole) == (0, True)
    with open(folder / "records", "r+b") as file:
        file.seek(5 * reader_stride(folder))
        file.write(b"\xff")
    with ReplayBuffer.open(folder) as reader:
        assert 5 in reader.verify().damaged


def reader_stride(folder):
    with ReplayBuffer.open(folder) as reader:
        return reader._ring.stride


def test_checksums_grow_with_later_rows(buffer):
    buffer.flush()
    for first in range(NUM, 3 * NUM, 150):
        buffer.update(buffer.numbers()[::97], {"reward": np.zeros(len(buffer.numbers()[::97]))})
        buffer.put(rows(first, 150))
        buffer.flush()
        assert (len(buffer.verify().unchecked), buffer.verify().is_whole) == (0, True)


def test_a_buffer_in_a_checkpoint_refuses(buffer):
    moment = buffer.moments.take(buffer.state_dict())
    buffer.moments.keep(moment)
    with pytest.raises(InvalidValueError, match="update: expected a buffer on disk that is in no checkpoint, got one"):
        buffer.update([1], {"reward": [1.0]})
    assert everything(buffer)["reward"][1] == 1


def test_an_update_before_a_checkpoint_is_part_of_it(buffer):
    buffer.update([1], {"reward": [-1.0]})
    moment = buffer.moments.take(buffer.state_dict())
    buffer.moments.keep(moment)
    buffer.put(rows(NUM, 50))
    buffer.moments.roll_back(moment)
    assert everything(buffer)["reward"][1] == -1
    assert buffer.verify().is_whole


def test_readers_see_each_call_whole_or_not_at_all(buffer, folder):
    """Each call gives all rows of a group one value; a batch of a reader has no group of two values."""
    buffer.flush()
    groups = np.arange(NUM).reshape(6, 100)
    done = threading.Event()

    def update():
        for value in range(60):
            buffer.update(groups[value % 6], {"hidden": np.full((100, 40), value), "reward": np.full(100, value)})
        done.set()

    buffer.update(np.arange(NUM), {"reward": np.zeros(NUM)})
    with ReplayBuffer.open(folder) as reader:
        thread = threading.Thread(target=update)
        thread.start()
        num_seen = 0
        while not done.is_set() or num_seen == 0:
            batch = everything(reader)
            assert (batch["hidden"] == batch["reward"][:, None]).all()
            by_group = batch["reward"].reshape(6, 100)
            assert (by_group == by_group[:, :1]).all()
            num_seen += 1
        thread.join()


@pytest.mark.parametrize("unit", ["transition", ("sequences", {"length": 50})], ids=["transitions", "sequences"])
def test_a_reader_tries_again_after_an_update_that_began_amid_its_copy(folder, unit):
    """100 copies, of some milliseconds each, end before that update does."""
    num = 10_000
    with ReplayBuffer(num, path=folder, unit=unit, seed=0) as buffer:
        wide = np.arange(num, dtype=np.float32)[:, None].repeat(512, axis=1)
        buffer.put({"wide": wide, "terminal": np.zeros(num, np.float32)})
        counter = buffer._storage._folder.page[112:120].view(np.int64)
        taken = np.arange(num) if unit == "transition" else np.arange(0, num, 50)
        with ReplayBuffer.open(folder) as reader:
            for read in (lambda: reader.take(taken), lambda: reader.sample(len(taken))):
                begins = threading.Event()

                def update(begins=begins):
                    begins.wait()
                    time.sleep(0.002)
                    counter[0] += 1
                    time.sleep(1)
                    counter[0] += 1

                thread = threading.Thread(target=update)
                thread.start()
                begins.set()
                assert read()["wide"].size == num * 512
                thread.join()


def test_an_index_of_a_reader_follows_updates(folder):
    """The starts of sequences depend on where episodes end."""
    with ReplayBuffer(100, path=folder, unit=("sequences", {"length": 10}), seed=0) as buffer:
        buffer.put({"step": np.arange(100), "terminal": np.zeros(100, np.float32)})
        buffer.flush()
        with ReplayBuffer.open(folder) as reader:
            assert reader.take([45])["step"].tolist() == [[*range(45, 55)]]
            buffer.update([49], {"terminal": [1.0]})
            assert reader.take([45])["mask"].sum() == 5
            assert buffer.take([45])["mask"].sum() == 5


def cut_short(buffer, monkeypatch, numbers, columns):
    """An update whose process ends between its decision and the writing of the rows."""

    class Killed(BaseException):
        pass

    def decided(path):
        raise Killed

    records = buffer._storage._folder.records
    before = records.copy()
    with monkeypatch.context() as patched:
        patched.setattr(type(buffer._storage._folder._files[0]), "sync", decided)
        with pytest.raises(Killed):
            buffer.update(numbers, columns)
    records[:] = before


def test_an_update_that_was_cut_short_is_finished_by_the_next_process(buffer, folder, monkeypatch, caplog):
    cut_short(buffer, monkeypatch, [1, 2], {"reward": [8.0, 9.0]})
    assert (folder / update_file.NAME).exists()
    buffer.put(rows(NUM, 2))  # takes spare places
    buffer.close()
    with ReplayBuffer.open(folder, "r+") as again:
        assert "the update of rows that was cut short is finished" in caplog.text
        assert everything(again)["reward"][:2].tolist() == [9.0, 3.0]
        assert again.verify().is_whole
    assert not (folder / update_file.NAME).exists()


def test_a_reader_awaits_an_update_and_names_one_that_does_not_end(buffer, folder, monkeypatch):
    buffer.flush()
    with ReplayBuffer.open(folder) as reader:
        counter = buffer._storage._folder.page[112:120].view(np.int64)
        counter[0] += 1
        with monkeypatch.context() as patched:
            patched.setattr(changeable.time, "sleep", lambda _: counter.__iadd__(1))  # the writer's next step
            assert len(reader.sample(5)["reward"]) == 5
        assert counter[0] % 2 == 0
        counter[0] += 1
        monkeypatch.setattr(changeable, "LONGEST_UPDATE", 0.01)
        with pytest.raises(LockedError, match=r"in the middle of an update of rows; if no process does that now"):
            reader.sample(5)
    buffer.close()
    with ReplayBuffer.open(folder, "r+"), ReplayBuffer.open(folder) as reader:
        assert len(reader.sample(5)["reward"]) == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "another"])
def test_a_damaged_file_of_an_update_is_an_error_that_names_it(buffer, folder, damage, monkeypatch):
    cut_short(buffer, monkeypatch, [1, 2], {"reward": [8.0, 9.0]})
    buffer.close()
    content = bytearray((folder / update_file.NAME).read_bytes())
    if damage == "cut":
        content = content[:-6]
    elif damage == "flipped":
        content[-7] ^= 1
    else:
        identity = ReplayBuffer.open(folder)._storage._folder.identity
        other = content[:-4].replace(identity.encode(), b"0" * len(identity))
        content = other + zlib.crc32(other).to_bytes(4, "little")
    (folder / update_file.NAME).write_bytes(content)
    with pytest.raises(InvalidFileError, match="update: expected an update of a buffer"):
        ReplayBuffer.open(folder, "r+")
    (folder / update_file.NAME).unlink()
    ReplayBuffer.open(folder, "r+").close()


UPDATER = """
import os, sys
import numpy as np
from really import ReplayBuffer

with ReplayBuffer.open(sys.argv[1], "r+") as buffer:
    for value in range(int(sys.argv[2]), 1 << 30):
        group = np.arange(value % 6, 600, 6)
        buffer.update(group, {"hidden": np.full((100, 40), value), "reward": np.full(100, value)})
        os.write(1, value.to_bytes(4, "little"))
        if value % 7 == 0:
            buffer.flush()
"""


def test_a_kill_leaves_each_call_whole_or_undone(buffer, folder):
    buffer.update(np.arange(NUM), {"reward": np.zeros(NUM)})
    buffer.close()
    value = 0
    for num_calls in (1, 5, 16):
        value = int(killed_after(UPDATER, [str(folder), str(value + 1)], num_calls)[-1])
        with ReplayBuffer.open(folder, "r+") as again:
            held = everything(again)
            assert again.verify().is_whole
        assert (held["hidden"] == held["reward"][:, None]).all(), "a part of a row"
        groups = held["reward"].reshape(100, 6)
        assert (groups == groups[:1]).all(), "a part of a call"
        assert groups.max() in (value, value + 1), "an acknowledged call is lost"
        value = int(groups.max())
