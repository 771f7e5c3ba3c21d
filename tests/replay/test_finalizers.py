"""A finalizer that uses a buffer runs amid calls of that buffer: it does not wait for its own thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
import numpy as np
from really import ReplayBuffer

kind, path = sys.argv[1:]
frames = np.arange(40 * 16 * 4, dtype=np.uint8).reshape(40, 4, 4, 4)
options = {"disk": {"path": path}, "prioritized": {"alpha": 0.6}, "frames": {}}[kind]
buffer = ReplayBuffer(100, seed=0, **options)
buffer.put({"state": frames, "state_new": frames, "reward": np.zeros(40, np.float32)})
num_finalized = 0


class Finalized:
    def __init__(self):
        self.itself = self

    def __del__(self):
        global num_finalized
        num_finalized += 1
        buffer.sample(2)
        buffer.take([0])


def leave_garbage():
    for _ in range(20):
        Finalized()


gc.set_threshold(1, 1, 1)
for _ in range(50):
    leave_garbage()
    state = buffer.state_dict()
    leave_garbage()
    buffer.load_state_dict(state)
    leave_garbage()
    buffer.nbytes, buffer.numbers(), len(buffer)
    leave_garbage()
    buffer.save(path + ".saved")
assert gc.isenabled()
gc.collect()
assert num_finalized == 4000
"""


@pytest.mark.parametrize("kind", ["disk", "prioritized", "frames"])
def test_a_finalizer_may_sample(kind, tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(tmp_path / "buffer")], timeout=60, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")
