"""A process that removes rows of a buffer on disk is killed: each call has removed all of its rows, or none."""

import numpy as np

from really import ReplayBuffer
from tests.scripts import killed_after

GROUPS, SIZE = 400, 5
REMOVER = """
import os, sys
import numpy as np
from really import ReplayBuffer

with ReplayBuffer.open(sys.argv[1], "r+") as buffer:
    for group in np.random.default_rng(int(sys.argv[2])).permutation(400):
        buffer.remove(np.arange(5) * 400 + group)
        os.write(1, int(group).to_bytes(4, "little"))
"""


def test_a_kill_leaves_each_call_whole_or_undone(tmp_path):
    with ReplayBuffer(GROUPS * SIZE, path=tmp_path / "buffer", seed=0) as buffer:
        buffer.put({"number": np.arange(GROUPS * SIZE)})
    removed = set()
    for life, num_calls in enumerate((1, 4, 13, 30)):
        # Killed after so many calls, or at once in the next one.
        said = killed_after(REMOVER, [str(tmp_path / "buffer"), str(life)], num_calls)
        with ReplayBuffer.open(tmp_path / "buffer", "r+") as buffer:
            left = buffer.take(np.arange(len(buffer)))["number"]
            assert np.isin(buffer.sample(4000)["number"], left).all()
        counts = np.bincount(left % (GROUPS), minlength=GROUPS)
        assert set(np.unique(counts)) <= {0, SIZE}, "a part of a call"
        removed |= set(said.tolist())
        gone = set(np.flatnonzero(counts == 0).tolist())
        assert removed <= gone, "an acknowledged call is lost"
        assert len(gone - removed) <= 1, "more than the call that was killed"
        removed = gone
