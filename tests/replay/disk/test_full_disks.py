"""Full disks of real file systems, as images where root can mount them: a put is refused whole, no process ends.

A write to a mapping for which the file system has no block left ends the process (SIGBUS), so each disk is filled in a
child process.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from really import ReplayBuffer
from really.checkpoints import save_model
from really.errors import FileError
from tests.checkpoints.test_crafted_models import Model
from tests.disks import KINDS, disk

FILL = """
import sys, numpy as np
from really import ReplayBuffer
from really.errors import DiskFullError
path, width = sys.argv[1], int(sys.argv[2])
buffer, number = ReplayBuffer(10**6, path=path, overcommit=True), 0
try:
    while True:
        row = np.arange(number, number + 200)[:, None]
        buffer.put({"x": np.repeat(row, width, axis=1).astype(np.float32)})
        number += 200
except DiskFullError:
    pass
assert len(buffer) == number > 1000, (len(buffer), number)
buffer.flush()
buffer.close()
with ReplayBuffer.open(path, "r+") as again:
    assert again.take(np.arange(number))["x"][:, 0].tolist() == list(range(number))
"""


@pytest.mark.parametrize("width", [256, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_refuses_a_put_whole(tmp_path, kind, width):
    with disk(tmp_path, kind) as folder:
        command = [sys.executable, "-c", FILL, str(folder / "b"), str(width)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert child.returncode == 0, child.stderr[-2000:]


def buffer_on(folder, name):
    ReplayBuffer(10, ["x"], path=folder / name).close()


def filled_on(folder, name):
    with ReplayBuffer(10, path=folder / name, alpha=0.6) as buffer:
        buffer.put({"x": np.arange(10)})


def saved_on(folder, name):
    buffer = ReplayBuffer(10)
    buffer.put({"x": np.arange(10)})
    buffer.save(folder / name)


def parquet_on(folder, name):
    buffer = ReplayBuffer(10)
    buffer.put({"x": np.arange(10)})
    buffer.to_parquet(folder / name)


def model_on(folder, name):
    save_model(Model(np.arange(4, dtype=np.float32)), folder / name, 1)


@pytest.mark.parametrize("write", [buffer_on, filled_on, saved_on, parquet_on, model_on])
@pytest.mark.parametrize("left", range(8))
def test_a_disk_without_inodes_says_so_and_what_was_refused_fits_later(tmp_path, write, left):
    """`left` more files may be made. The system only says "no space left", with megabytes that are free."""
    with disk(tmp_path, "tmpfs", mount=("nr_inodes=40",)) as folder:
        others = list(taken(folder))
        for _ in range(left):
            others.pop().unlink()
        before = sorted(path.name for path in others)
        error = error_of(lambda: write(folder, "b"))
        if error is not None:
            assert error.errno == errno.ENOSPC
            assert str(folder / "b") in str(error)
            assert "the file system has no inode left for another file" in str(error)
            assert [name for name in sorted(os.listdir(folder)) if name != "b"] == before
            for _ in range(10):
                others.pop().unlink()
            write(folder, "b")
        assert error or left
        assert (folder / "b").exists()


def error_of(call):
    """The FileError of a call, without what it refers to; None if there is none."""
    try:
        call()
    except FileError as error:
        return error.with_traceback(None)
    return None


def taken(folder):
    """Takes all inodes with empty files."""
    with contextlib.suppress(OSError):
        for number in itertools.count():
            path = folder / f"other {number}"
            path.touch()
            yield path
