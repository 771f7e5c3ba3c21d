"""A process that removes rows of a buffer on disk is killed: each call has removed all of its rows, or none."""

import signal
import subprocess
import sys

import numpy as np

from really import ReplayBuffer

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


def killed(folder, seed, num_calls):
    """The groups that a process has removed before it was killed after so many calls, or at once in the next one."""
    command = [sys.executable, "-c", REMOVER, str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        said = b""
        while len(said) < 4 * num_calls and (more := process.stdout.read(4 * num_calls - len(said))):
            said += more
        process.kill()
        rest, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    said += rest
    return np.frombuffer(said[: len(said) // 4 * 4], np.uint32)


def test_a_kill_leaves_each_call_whole_or_undone(tmp_path):
    with ReplayBuffer(GROUPS * SIZE, path=tmp_path / "buffer", seed=0) as buffer:
        buffer.put({"number": np.arange(GROUPS * SIZE)})
    removed = set()
    for life, num_calls in enumerate((1, 4, 13, 30)):
        said = killed(tmp_path / "buffer", life, num_calls)
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
