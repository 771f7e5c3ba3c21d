"""Claim: a buffer in files reaches at least 90 % of the speed of one in memory while its pages stay in memory.

`frames` are stacks of deduplicated frames, put as runners send them. `Reopen` takes less than 1 s for any size.
"""

import shutil
import tempfile

from benchmarks import first_of
from benchmarks.frames import GAMES, STEPS, chunks
from benchmarks.workloads import CARTPOLE, WIDE
from really import ReplayBuffer

encode = first_of("encode", "really.replay.frame_encoding", "really.frames")

PLACES = ["memory", "disk"]
HELD = {"cartpole": 1_000_000, "wide": 50_000, "frames": 20_000}
PLAIN = {workload.name: workload for workload in (CARTPOLE, WIDE)}


def filled(workload, folder=None, held=None):
    """A full buffer, in files if `folder` is given, and rows to put: 1,000, or a chunk of frames."""
    place, capacity = {} if folder is None else {"path": folder}, held or HELD[workload]
    if workload == "frames":
        buffer = ReplayBuffer(capacity, seed=0, stack=(4, 0), **place)
        for chunk in map(encode, chunks(capacity // (GAMES * STEPS) + 1)):
            buffer.put(chunk)
        return buffer, chunk
    buffer = ReplayBuffer(capacity, spec=PLAIN[workload].spec, seed=0, dedup=False, **place)
    rows = PLAIN[workload].rows(1000)
    for _ in range(capacity // 1000):
        buffer.put(rows)
    return buffer, rows


class Disk:
    """A full buffer whose files fit in memory, against one without files."""

    params = (list(HELD), PLACES)
    param_names = ("workload", "place")

    def setup(self, workload, place):
        self.folder = tempfile.mkdtemp() if place == "disk" else None
        self.buffer, self.rows = filled(workload, self.folder)

    def teardown(self, workload, place):
        if self.folder is not None:
            self.buffer.close()
            shutil.rmtree(self.folder)

    def time_sample_32(self, workload, place):
        self.buffer.sample(32)

    def time_sample_256(self, workload, place):
        self.buffer.sample(256)

    def time_sample_1024(self, workload, place):
        self.buffer.sample(1024)

    def time_put(self, workload, place):
        self.buffer.put(self.rows)


class Reopen:
    """An existing buffer opens at once, for any number of rows."""

    params = (list(HELD),)
    param_names = ("workload",)

    def setup(self, workload):
        self.folder = tempfile.mkdtemp()
        filled(workload, self.folder)[0].close()

    def teardown(self, workload):
        shutil.rmtree(self.folder)

    def time_open(self, workload):
        ReplayBuffer.open(self.folder, "r+").close()
