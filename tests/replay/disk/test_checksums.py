"""Checksums of buffers on disk: every flipped bit of every file is told, and `verify` names the rows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import ClosedError, InvalidFileError, InvalidTypeError, InvalidValueError, LockedError
from really.replay.disk import runs
from tests.rows import wide

NUM = 60
FILES = ("schema.json", "cursor", "records", "frames.0", "frames.0.table", "priorities", "checksums")


def stacked(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows of stacks of four frames, of which successive ones share three."""
    frames = np.random.default_rng(0).integers(0, 255, (first + num + 4, 24, 24), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(first, first + num + 1)])
    return {"state": stacks[:-1], "action": np.arange(first, first + num), "state_new": stacks[1:]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checksums") / "b"
    with ReplayBuffer(NUM, path=folder, spare=10, seed=0, alpha=0.6) as buffer:
        for first in range(0, NUM + 20, 10):
            buffer.put(stacked(first, 10))
            buffer.flush()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "b")


def flipped(file: Path, bit: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(bit // 8)
        byte = handle.read(1)[0]
        handle.seek(bit // 8)
        handle.write(bytes([byte ^ 1 << bit % 8]))


def test_rows_of_an_untouched_folder_are_all_right(made):
    for mode in ("r", "r+"):
        with ReplayBuffer.open(made, mode) as buffer:
            found = buffer.verify()
            assert (found.num_rows, len(found.damaged), len(found.unchecked), found.files) == (NUM, 0, 0, ())
            assert found.is_whole
            assert repr(found) == "Verification(60 rows, 0 damaged, 0 without a checksum)"


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_of_any_file_is_told_or_touches_no_row(made, folder, name, mode):
    """Told at opening, or by `verify`, which names all rows whose values are others."""
    ages, rng = np.arange(NUM), np.random.default_rng(len(name))
    with ReplayBuffer.open(made) as buffer:
        expected = list(buffer.take(ages).values())
    size, num_told = (folder / name).stat().st_size, 0
    for bit in rng.integers(0, 8 * size, 12):
        flipped(folder / name, int(bit))
        try:
            with ReplayBuffer.open(folder, mode) as buffer:
                found = buffer.verify()
                left = np.setdiff1d(ages, found.damaged)
                for column, own in zip(expected, buffer.take(left).values(), strict=True):
                    np.testing.assert_array_equal(own, column[left])
            assert found.files == (() if found.is_whole else (name,))
            num_told += not found.is_whole
        except InvalidFileError as error:
            num_told += name in str(error)
        shutil.rmtree(folder)
        shutil.copytree(made, folder)
    assert num_told == 12 or (num_told >= 5 and name in ("records", "frames.0"))  # which have places of no row


def test_damaged_rows_are_named_and_the_others_can_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUN_NBYTES", 8192)
    with ReplayBuffer(1000, path=tmp_path / "b", spare=100) as buffer:
        buffer.put(wide(0, 1000))
        stride = buffer.nbytes // 1000
    flipped(tmp_path / "b" / "records", 8 * (stride * 500 + 9))
    with ReplayBuffer.open(tmp_path / "b") as buffer:
        found = buffer.verify()
        assert 500 in found.damaged
        assert 0 < len(found.damaged) <= 8192 // stride
        assert repr(found).startswith(f"Verification(1,000 rows, {len(found.damaged)} damaged (indices ")
        left = np.setdiff1d(np.arange(1000), found.damaged)
        rescued = ReplayBuffer(1000)
        rescued.put(buffer.take(left))
    assert rescued.take(np.arange(len(left)))["number"].tolist() == left.tolist()


def test_rows_of_a_damaged_frame_are_those_that_need_its_run(folder):
    """Rows 76 to 79 need one of the frames 80 to 83, which are a run, since a block has 16 frames."""
    block_nbytes, block = 12288, 5
    index = np.fromfile(folder / "frames.0.table", np.uint32)[16 + block] - 1
    flipped(folder / "frames.0", 8 * (int(index) * block_nbytes + 100))
    with ReplayBuffer.open(folder) as buffer:
        found = buffer.verify()
        assert buffer.take(found.damaged)["action"].tolist() == [76, 77, 78, 79]
        assert found.files == ("frames.0",)
        assert repr(found) == ("Verification(60 rows, 4 damaged (indices 56 to 59; frames.0), 0 without a checksum)")


def test_rows_put_since_the_last_flush_have_no_checksum(tmp_path):
    with ReplayBuffer(100, path=tmp_path / "b", spare=10) as buffer:
        assert buffer.verify().num_rows == 0
        buffer.put(wide(0, 30))
        assert buffer.verify().unchecked.tolist() == list(range(30))
        buffer.flush()
        buffer.put(wide(30, 5))
        assert buffer.verify().unchecked.tolist() == list(range(30, 35))
        buffer.put(wide(35, 200))
        assert len(buffer.verify().unchecked) == 100
        buffer.flush()
        assert len(buffer.verify().unchecked) == 0
    with pytest.raises(ClosedError):
        buffer.verify()


KILLED = """
import os, signal, sys
from really import ReplayBuffer
from tests.rows import wide
buffer = ReplayBuffer(100, path=sys.argv[1], spare=10)
buffer.put(wide(0, 95))
buffer.flush()
buffer.put(wide(95, 15))
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_after_a_kill_rows_since_the_flush_have_no_checksum_and_after_an_ordinary_end_all_have(tmp_path, end):
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "b"), end], cwd=Path(__file__).parents[3])
    assert child.returncode == (-signal.SIGKILL if end == "kill" else 0)
    for mode in ("r", "r+"):
        with ReplayBuffer.open(tmp_path / "b", mode) as buffer:
            found = buffer.verify()
            assert found.is_whole
            assert len(found.unchecked) == (15 if end == "kill" else 0)
    with ReplayBuffer.open(tmp_path / "b") as buffer:  # the writer has closed it since
        assert len(buffer.verify().unchecked) == 0


def test_a_buffer_that_is_dropped_has_checksums(tmp_path):
    buffer = ReplayBuffer(100, path=tmp_path / "b", spare=10)
    buffer.put(wide(0, 30))
    del buffer
    with ReplayBuffer.open(tmp_path / "b") as buffer:
        assert len(buffer.verify().unchecked) == 0


def test_a_reader_verifies_while_another_thread_puts_and_flushes(tmp_path):
    with ReplayBuffer(200, path=tmp_path / "b", spare=50) as buffer:
        buffer.put(wide(0, 200))
        reader = ReplayBuffer.open(tmp_path / "b")
        for first in range(200, 600, 7):
            buffer.put(wide(first, 7))
            if first % 3 == 0:
                buffer.flush()
            assert reader.verify().is_whole
            assert buffer.verify().is_whole


def test_clear_and_later_rows_are_told_from_damage(tmp_path):
    with ReplayBuffer(100, path=tmp_path / "b", spare=10) as buffer:
        buffer.put(wide(0, 30))
        buffer.flush()
        buffer.clear()
        assert buffer.verify().num_rows == 0
        buffer.put(wide(30, 7))
    with ReplayBuffer.open(tmp_path / "b", "r+") as buffer:
        assert (buffer.verify().num_rows, len(buffer.verify().unchecked)) == (7, 0)


def test_a_cursor_that_counts_fewer_rows_is_told_also_if_the_buffer_was_not_closed(tmp_path):
    buffer = ReplayBuffer(100, path=tmp_path / "b", spare=10)
    buffer.put(wide(0, 33))
    buffer.flush()
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    buffer.close()
    flipped(tmp_path / "copy" / "cursor", 8 * 64)
    with pytest.raises(InvalidFileError, match=r"copy/cursor: expected its content as it was when the buffer was writ"):
        ReplayBuffer.open(tmp_path / "copy")
    (tmp_path / "copy" / "checksums").unlink()
    assert len(ReplayBuffer.open(tmp_path / "copy").verify().unchecked) == 32


def test_a_cursor_of_before_a_loss_of_power_is_refused_until_the_checksums_are_deleted(tmp_path):
    buffer = ReplayBuffer(100, path=tmp_path / "b", spare=10)
    buffer.put(wide(0, 33))
    buffer.flush()
    shutil.copy(tmp_path / "b" / "cursor", tmp_path / "durable")
    buffer.put(wide(33, 7))
    buffer.close()
    shutil.copy(tmp_path / "durable", tmp_path / "b" / "cursor")
    with pytest.raises(InvalidFileError, match=r"b/cursor: .* or older than the checksums after a loss of power"):
        ReplayBuffer.open(tmp_path / "b")
    (tmp_path / "b" / "checksums").unlink()
    with ReplayBuffer.open(tmp_path / "b", "r+") as found:
        assert len(found) == 33
        np.testing.assert_array_equal(found.take(np.arange(33))["copies"], wide(0, 33)["copies"])


def test_damage_is_told_again_by_the_next_that_opens_the_folder(folder):
    flipped(folder / "cursor", 8 * 300)
    for _ in range(2):
        with pytest.raises(InvalidFileError, match=r"b/cursor: expected its content"):
            ReplayBuffer.open(folder, "r+")
    with open(folder / "checksums", "r+b") as file:
        file.truncate((folder / "checksums").read_bytes().rindex(b'{"cursor"'))  # a buffer that was not closed
    with open(folder / "records", "r+b") as file:
        file.write(bytes(64 * 70))
    for _ in range(2):
        with ReplayBuffer.open(folder, "r+") as buffer:
            assert buffer.verify().damaged.tolist() == list(range(NUM))


def test_another_buffers_checksums_are_refused(tmp_path):
    for name in "ab":
        with ReplayBuffer(100, path=tmp_path / name, spare=10) as buffer:
            buffer.put(wide(0, 30))
    shutil.copy(tmp_path / "a" / "checksums", tmp_path / "b" / "checksums")
    with pytest.raises(InvalidFileError, match=r"b/checksums: expected the checksums of a buffer .* the identity"):
        ReplayBuffer.open(tmp_path / "b")


def test_checksums_can_be_left_out_and_the_folder_remembers(tmp_path):
    with ReplayBuffer(100, path=tmp_path / "b", checksums=False) as buffer:
        buffer.put(wide(0, 30))
    with ReplayBuffer.open(tmp_path / "b", "r+") as buffer:
        assert len(buffer.verify().unchecked) == 30
    assert not (tmp_path / "b" / "checksums").exists()
    ReplayBuffer(100, path=tmp_path / "b").close()
    with pytest.raises(InvalidValueError, match="checksums: expected False, as the buffer at"):
        ReplayBuffer(100, path=tmp_path / "b", checksums=True)
    with pytest.raises(InvalidTypeError, match="checksums: expected True or False, got 3"):
        ReplayBuffer(100, path=tmp_path / "c", checksums=3)


def test_rows_in_memory_have_no_checksums():
    buffer = ReplayBuffer(10)
    assert buffer.verify().num_rows == 0
    buffer.put(wide(0, 3))
    assert buffer.verify().unchecked.tolist() == [0, 1, 2]


def test_a_forked_child_verifies_and_leaves_the_checksums_alone(folder):
    with ReplayBuffer.open(folder, "r+") as buffer:
        before = (folder / "checksums").read_bytes()
        child = os.fork()
        if child == 0:
            whole = buffer.verify().is_whole and len(buffer.verify().unchecked) == 0
            buffer.close()
            os._exit(0 if whole and (folder / "checksums").read_bytes() == before else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_handler_that_flushes_amid_a_flush_is_told_and_never_waits_for_itself(tmp_path):
    rng, ends = np.random.default_rng(0), {"flushed": 0, "told": 0}
    with ReplayBuffer(NUM, path=tmp_path / "b", spare=10) as buffer:

        def flush(number, frame):
            try:
                buffer.flush()
                ends["flushed"] += 1
            except LockedError:
                ends["told"] += 1

        before = signal.signal(signal.SIGALRM, flush)
        try:
            for _ in range(2000):
                buffer.put(wide(0, 5))
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-5, 2e-3)))
                buffer.flush()
                if min(ends.values()) > 0:
                    break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert min(ends.values()) > 0
        buffer.flush()
        assert buffer.verify().is_whole
