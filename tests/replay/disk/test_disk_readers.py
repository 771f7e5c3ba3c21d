"""Readers in another process of a buffer that shares frames, while the writer overwrites and clears its rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer

CAPACITY, SIZE = 1000, 32
READER = """
import resource, sys, time
import numpy as np
from really import EmptyBufferError, OvertakenError, ReplayBuffer

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # numbers written over seem to span 16 GB of frames

def numbers(stacks):  # each frame begins with its own
    return np.ascontiguousarray(stacks).reshape(len(stacks), 4, 32 * 32).view(np.int64)[:, :, 0]

def drawn():
    if sys.argv[2] == "sample":
        return buffer.sample(4000)
    with buffer.open_reader() as reader:
        return {key: np.asarray(column) for key, column in reader.read_shared(1000).items()}

buffer, batches, until = ReplayBuffer.open(sys.argv[1], seed=1), 0, time.monotonic() + 2
while time.monotonic() < until:
    try:
        batch = drawn()
    except (EmptyBufferError, OvertakenError):
        continue
    for key, first in (("state", batch["row"]), ("state_new", batch["row"] + 1)):
        expected = first[:, None] + np.arange(4)
        assert (numbers(batch[key]) == expected).all(), (key, numbers(batch[key]), expected)
    batches += len(batch["row"]) > 0
print(batches)
"""


def rows(first: int, num: int) -> dict[str, np.ndarray]:
    """Rows of one trajectory; frame f begins with the number f."""
    frames = np.zeros((num + 4, SIZE, SIZE), np.uint8)
    frames.reshape(num + 4, -1).view(np.int64)[:, 0] = np.arange(first, first + num + 4)
    stacks = np.stack([frames[at : at + 4] for at in range(num + 1)])
    return {"state": stacks[:-1], "row": np.arange(first, first + num), "state_new": stacks[1:]}


@pytest.mark.parametrize("clears", [False, True], ids=["overwriting", "clearing"])
@pytest.mark.parametrize("way", ["sample", "read"])
def test_a_reader_never_sees_a_torn_row_of_shared_frames(tmp_path: Path, way: str, clears: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    num = CAPACITY // 2 if clears else 64
    with ReplayBuffer(CAPACITY, path=tmp_path / "b", spare=None if clears else 64, seed=0) as buffer:
        first = 0
        while first < CAPACITY:
            buffer.put(rows(first, num))
            first += num
        command = [sys.executable, "-c", READER, str(tmp_path / "b"), way]
        reader = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while reader.poll() is None:
            new = rows(first, num)
            if clears:
                buffer.clear()
            buffer.put(new)
            first += num
            time.sleep(0.002 if clears else 0)
        out, err = reader.communicate()
    assert reader.returncode == 0, err
    assert way == "read" or int(out) > 0  # a read of as many rows may be overtaken each time
