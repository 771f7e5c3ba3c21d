"""A disk that fills up during a save: the save raises, the older file stays complete, the new one is removed."""

import errno
import os

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import FileError
from tests.checkpoints.test_training_state import make, rows
from tests.replay.disk.test_disk_refusals import mounted


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("number", [0, 40_000], ids=["weights", "rows"])
def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(tmp_path, number):
    """The disk is full at the weights, or in the middle of the buffer."""
    with mounted(tmp_path / "disk", "2m") as disk, make(capacity=100_000) as manager:
        before = manager.save_checkpoint(disk / "c", counters={"updates": 1})
        entries = files(disk)
        draw = np.random.default_rng(0)
        manager.buffer.put(rows(number) | {"state": draw.random((number, 4), np.float32)} if number else rows(1))
        left = 4096 if number == 0 else 1 << 18
        (disk / "rest").write_bytes(bytes(free(disk) - left))
        with pytest.raises(
            FileError, match=r"c: expected to write checkpoint_<time>, but .*[Nn]o space left"
        ) as caught:
            manager.save_checkpoint(disk / "c", counters={"updates": 2}, keep=1)
        assert caught.value.errno == errno.ENOSPC
        (disk / "rest").unlink()
        assert files(disk) == entries
        assert manager.load_checkpoint(before)["updates"] == 1
        assert len(manager.buffer) == 0
        manager.save_checkpoint(disk / "c", counters={"updates": 3})
        assert manager.load_checkpoint(disk / "c")["updates"] == 3


def test_a_saved_buffer_on_a_full_disk_leaves_the_one_before(tmp_path):
    buffer = ReplayBuffer(200_000, spec={"x": "float64"}, seed=0)
    with mounted(tmp_path / "disk", "1m") as disk:
        buffer.put({"x": np.arange(1000.0)})
        buffer.save(disk / "b")
        buffer.put({"x": np.random.default_rng(0).random(150_000)})
        with pytest.raises(FileError, match=r"[Nn]o space left"):
            buffer.save(disk / "b")
        assert [path.name for path in disk.iterdir()] == ["b"]
        assert ReplayBuffer.load(disk / "b").take(range(1000))["x"].tolist() == list(range(1000))
        assert len(buffer) == 151_000


def free(folder):
    left = os.statvfs(folder)
    return left.f_bavail * left.f_frsize
