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


# Python may collect garbage wherever it makes an object: here it does so at each call of a function.
AT_EACH_CALL = """
import gc, sys
import numpy as np
from really import ReplayBuffer
from really.replay import Episodes, Mixture, Sequences, StalenessSampler, StratifiedSampler

kind, path = sys.argv[1:]
place = np.arange(40)
rows = {"state": np.random.default_rng(0).random((41, 3)), "terminal": place % 10 == 9, "reward": np.zeros(40)}
rows |= {"state_new": rows["state"][1:], "state": rows["state"][:-1], "task": place % 4, "policy_version": place // 8}


def filled(**options):
    buffer = ReplayBuffer(300, seed=0, **options)  # whole episodes stay, though each call adds a row
    buffer.put(rows)
    return buffer


makers = {
    "sequences": lambda: filled(unit=Sequences(3)),
    "prioritized sequences": lambda: filled(unit=Sequences(3), alpha=0.6),
    "episodes on disk": lambda: filled(unit=Episodes(), path=path),
    "stratified": lambda: filled(sampler=StratifiedSampler("task")),
    "staleness": lambda: filled(sampler=StalenessSampler(4)),
    "mixture": lambda: Mixture({filled(): 0.3, filled(alpha=0.6): 0.7}, seed=0),
}
buffer = makers[kind]() if kind in makers else filled()
batches = filled().batches(2, prefetch=int(kind[-1])) if kind.startswith("batches") else None
num_finalized, is_collecting = 0, False


def sample():
    return buffer.sample(2) if batches is None else next(batches)


class Finalized:
    def __init__(self):
        self.itself = self

    def __del__(self):
        global num_finalized
        num_finalized += 1
        sample()
        if kind != "mixture":
            buffer.put({key: values[:1] for key, values in rows.items()})


def collect(frame, event, argument):
    global is_collecting
    if not is_collecting and gc.isenabled() and event in ("call", "c_call", "c_return"):
        is_collecting = True
        Finalized()
        gc.collect()
        is_collecting = False


gc.set_threshold(10**9)
gc.freeze()
for action in (sample, buffer.state_dict, sample, lambda: kind == "mixture" or buffer.put(rows), sample):
    sys.setprofile(collect)
    action()
    sys.setprofile(None)
assert gc.isenabled()
assert num_finalized > 50, num_finalized
if batches is not None:
    batches.close()
"""
KINDS = ("sequences", "prioritized sequences", "episodes on disk", "stratified", "staleness", "mixture", "batches 0")


@pytest.mark.parametrize("kind", [*KINDS, "batches 2"])
def test_a_finalizer_may_sample_and_put_at_any_line(kind, tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", AT_EACH_CALL, kind, str(tmp_path / "buffer")], timeout=30, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")


# The other thread holds a lock of the mixture while this one forks.
FORK = """
import gc, os, threading, time
import numpy as np
from really import ReplayBuffer
from really.replay import Mixture

holding, forked = threading.Event(), threading.Event()


def weight(number):
    if number:
        holding.set()
        forked.wait()
    return 0.5


buffers = [ReplayBuffer(10), ReplayBuffer(10)]
for buffer in buffers:
    buffer.put({"action": np.arange(4)})
mixture = Mixture({buffers[0]: weight, buffers[1]: 0.5}, seed=0)
mixture.sample(2)
thread = threading.Thread(target=mixture.sample, args=(2,))
thread.start()
holding.wait()
assert not gc.isenabled()
child = os.fork()
if child == 0:
    forked.set()
    mixture.sample(2)
    os._exit(0 if gc.isenabled() else 1)
forked.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert gc.isenabled()
"""


def test_a_fork_amid_a_lock_leaves_collection_on():
    found = subprocess.run([sys.executable, "-c", FORK], timeout=30, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


HELD = """
import sys
import numpy as np
from really import ReplayBuffer

kind, path = sys.argv[1:]
frames = np.arange(40 * 16 * 64, dtype=np.uint8).reshape(40, 4, 16, 16)
options = {"disk": {"path": path}, "prioritized": {"alpha": 0.6, "path": path}, "frames": {}}[kind]
np.held = buffer = ReplayBuffer(100, seed=0, **options)  # NumPy's names go after those of this package
buffer.put({"state": frames, "state_new": frames, "reward": np.zeros(40, np.float32)})
np.reader = buffer.open_reader(keeps=True)
if path.endswith("closed"):
    np.reader.close()
    buffer.close()
"""


@pytest.mark.parametrize("ending", ["open", "closed"])
@pytest.mark.parametrize("kind", ["disk", "prioritized", "frames"])
def test_a_buffer_that_is_held_until_the_end_of_python_writes_nothing_to_the_console(kind, ending, tmp_path):
    path = str(tmp_path / ending)
    found = subprocess.run([sys.executable, "-c", HELD, kind, path], timeout=60, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
