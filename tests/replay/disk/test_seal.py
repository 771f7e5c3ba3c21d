"""The seal of a buffer on disk: it stays while nothing is put, and counts for no process that finds it too old."""

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
from really.errors import FileError, InvalidFileError
from tests.replay.disk.test_checksums import flipped, stacked
from tests.rows import wide

NUM = 60
UNSEALED_AT = 8 * 120
"""Bit of the cursor at which the mark begins that a process writes."""


@pytest.fixture(params=["plain", "frames", "prioritized"])
def folder(request, tmp_path):
    rows, options = (stacked, {}) if request.param == "frames" else (wide, {})
    if request.param == "prioritized":
        options = {"alpha": 0.6}
    with ReplayBuffer(NUM, path=tmp_path / "b", spare=10, seed=0, **options) as buffer:
        buffer.put(rows(0, NUM + 5))
    return tmp_path / "b"


def is_compared(folder: Path, copy: Path) -> bool:
    """Whether a flipped bit of the cursor is told, of which only the seal knows."""
    shutil.copytree(folder, copy)
    flipped(copy / "cursor", 8 * 3000)
    try:
        ReplayBuffer.open(copy).close()
    except InvalidFileError as error:
        return "cursor" in str(error)
    finally:
        shutil.rmtree(copy)
    return False


def run(folder: Path, program: str) -> int:
    head = "import os, signal, sys\nfrom really import ReplayBuffer\nfrom tests.rows import wide\n"
    code = head + "buffer = ReplayBuffer.open(sys.argv[1], 'r+')\n" + program
    return subprocess.run([sys.executable, "-c", code, str(folder)], cwd=Path(__file__).parents[3]).returncode


def test_a_buffer_that_is_opened_and_closed_writes_no_file_and_stays_sealed(folder, tmp_path):
    def files() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir() if path.name != "lock"}

    before = files()
    with ReplayBuffer.open(folder, "r+") as buffer:
        assert not is_compared(folder, tmp_path / "copy")
        assert len(buffer) == NUM
    after = files()
    if (folder / "priorities").exists():  # which are written at each `close`
        before, after = ({name: content for name, (_, content) in found.items()} for found in (before, after))
    assert after == before
    assert is_compared(folder, tmp_path / "copy")


def test_draws_without_a_put_are_sealed_at_the_end(folder, tmp_path):
    with ReplayBuffer.open(folder, "r+") as buffer:
        buffer.sample(3)
        with ReplayBuffer.open(folder) as reader:  # the cursor is not as it was: no damage
            assert reader.verify().is_whole
        state = buffer.state_dict()
    assert is_compared(folder, tmp_path / "copy")
    with ReplayBuffer.open(folder, "r+") as buffer:
        np.testing.assert_equal(buffer.state_dict(), state)


@pytest.mark.parametrize("program", ["", "buffer.sample(3)\n", "buffer.put(buffer.take([0, 1, 2]))\n"])
def test_a_kill_after_opening_leaves_a_buffer_that_opens_whole_and_is_sealed_again(folder, tmp_path, program):
    assert run(folder, program + "os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    num_unchecked = 3 if "put" in program else 0
    for mode in ("r", "r+"):
        with ReplayBuffer.open(folder, mode) as buffer:
            found = buffer.verify()
            assert (found.num_rows, found.is_whole, len(found.unchecked)) == (NUM, True, num_unchecked)
    assert is_compared(folder, tmp_path / "copy")


def test_the_generator_goes_on_after_draws_without_a_put_and_a_kill(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "uninterrupted")
    with ReplayBuffer.open(tmp_path / "uninterrupted", "r+") as buffer:
        buffer.sample(3)
        expected = buffer.state_dict()["state"]
    assert run(folder, "buffer.sample(3)\nos.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    with ReplayBuffer.open(folder, "r+") as buffer:
        if buffer.options.alpha is None:  # priorities keep their generator at `close`
            np.testing.assert_equal(buffer.state_dict()["state"], expected)
        assert len(buffer) == NUM


def test_the_first_put_removes_the_seal_before_it_changes_a_file(folder):
    with ReplayBuffer.open(folder, "r+") as buffer:
        sealed = (folder / "checksums").read_bytes()
        buffer.put(buffer.take([0]))
        unsealed = (folder / "checksums").read_bytes()
        assert len(unsealed) < len(sealed)
        assert sealed.startswith(unsealed)
        buffer.put(buffer.take([1]))
        assert (folder / "checksums").read_bytes() == unsealed


def test_a_put_that_cannot_remove_the_seal_is_refused_and_the_next_one_tries_again(folder):
    with ReplayBuffer.open(folder, "r+") as buffer:
        row, before = buffer.take([7]), buffer.take(np.arange(NUM))
        os.rename(folder / "checksums", folder / "elsewhere")
        (folder / "checksums").mkdir()
        for _ in range(2):
            with pytest.raises(FileError, match="checksums: expected to write the checksums of a buffer"):
                buffer.put(row)
        np.testing.assert_equal(buffer.take(np.arange(NUM)), before)
        (folder / "checksums").rmdir()
        os.rename(folder / "elsewhere", folder / "checksums")
        buffer.put(row)
    with ReplayBuffer.open(folder) as buffer:
        assert (buffer.verify().is_whole, len(buffer.verify().unchecked)) == (True, 0)


def test_a_clear_an_update_and_a_removal_without_a_put_are_sealed(tmp_path):
    with ReplayBuffer(NUM, path=tmp_path / "b", spare=10) as buffer:
        buffer.put(wide(0, NUM))
    for change in (
        lambda buffer: buffer.update([3], {"number": np.array([7])}),
        lambda buffer: buffer.remove([4]),
        lambda buffer: buffer.clear(),
    ):
        with ReplayBuffer.open(tmp_path / "b", "r+") as buffer:
            change(buffer)
        assert is_compared(tmp_path / "b", tmp_path / "copy")
        with ReplayBuffer.open(tmp_path / "b") as buffer:
            assert (buffer.verify().is_whole, len(buffer.verify().unchecked)) == (True, 0)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("bit", [0, 9, 63])
def test_a_flipped_bit_of_the_mark_is_told(folder, bit, mode):
    flipped(folder / "cursor", UNSEALED_AT + bit)
    with pytest.raises(InvalidFileError, match=r"cursor: expected zeros or b'unsealed' at byte 120, got"):
        ReplayBuffer.open(folder, mode)


def test_priorities_of_any_length_are_sealed(tmp_path):
    """Those of 8,388,608 rows and more were too long a file to close, and to open."""
    num = 8_500_000
    with ReplayBuffer(num, path=tmp_path / "b", alpha=0.6, seed=0, overcommit=True) as buffer:
        buffer.put({"small": np.zeros(num, np.uint8)})
        buffer.update_priorities(np.array([num - 1]), np.array([1e20]))
    assert (tmp_path / "b" / "priorities").stat().st_size > 64 << 20
    with ReplayBuffer.open(tmp_path / "b", "r+") as again:
        assert len(again) == num
        assert (again.sample(8)["index"] == num - 1).all()
