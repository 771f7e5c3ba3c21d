"""Sampling: a narrow row costs one cache miss, and a wide row the bandwidth of the memory."""

import numpy as np

from benchmarks.peers import PEERS, filled, filled_floor, peers_for
from benchmarks.workloads import LAYOUTS
from really import ReplayBuffer

# Rows held: some 64 MB of each workload, twice the last-level cache.
HELD = {"cartpole": 1_000_000, "wide": 20_000, "atari": 1_000}


class Sample:
    """ReplayBuffer samples faster than every peer at every batch size.

    32 to 1024 rows straddle malloc's mmap threshold (128 kB) for wide rows and images.
    """

    params = (list(LAYOUTS), list(PEERS), [32, 256, 1024])
    param_names = ("workload", "peer", "rows")

    def setup(self, workload, peer, rows):
        if peer not in peers_for(LAYOUTS[workload]):
            raise NotImplementedError(f"{peer} cannot hold {workload}")
        self.peer = filled(peer, LAYOUTS[workload], HELD[workload])
        self.arguments = self.peer.for_sample(rows)

    def time_sample(self, workload, peer, rows):
        self.peer.sample(*next(self.arguments))


class Floor:
    """The rate of plain C, one row after another or with all techniques; shares in the tables refer to it."""

    params = (list(LAYOUTS), [32, 256, 1024], [False, True])
    param_names = ("workload", "rows", "best")

    def setup(self, workload, rows, best):
        self.floor = filled_floor(LAYOUTS[workload], HELD[workload], best)
        self.columns = self.floor.outputs(rows)
        self.picks = np.random.default_rng(0).integers(0, HELD[workload], rows * 100)

    def track_seconds(self, workload, rows, best):
        return self.floor.seconds_per_gather(self.picks, rows, self.columns)

    track_seconds.unit = "seconds"


class Held:
    """A batch costs the same for any number of rows, except for cache misses; sizes below and above every cache."""

    params = ([10_000, 100_000, 1_000_000, 10_000_000, 100_000_000], [256])
    param_names = ("held", "rows")

    def setup(self, held, rows):
        try:
            self.peer = filled("really", LAYOUTS["cartpole"], held)
        except MemoryError as error:  # 100 million rows are 6.4 GB
            raise NotImplementedError(str(error)) from error

    def time_sample(self, held, rows):
        self.peer.sample(rows)


class Several:
    """Several batches in one call cost less than as many calls."""

    params = ([1, 8, 32],)
    param_names = ("batches",)

    def setup(self, batches):
        self.peer = filled("really", LAYOUTS["cartpole"], 1_000_000)

    def time_one_call(self, batches):
        self.peer.buffer.sample((batches, 64))

    def time_many_calls(self, batches):
        for _ in range(batches):
            self.peer.sample(64)


class Ways:
    """Sampling without replacement, and into given arrays, is about as fast as plain sampling."""

    params = (["plain", "distinct", "out", "take"],)
    param_names = ("way",)

    def setup(self, way):
        buffer = filled("really", LAYOUTS["cartpole"], 1_000_000).buffer
        out, indices = buffer.sample(256), buffer.sample_indices(256)
        self.call = {
            "plain": lambda: buffer.sample(256),
            "distinct": lambda: buffer.sample(256, replace=False),
            "out": lambda: buffer.sample(256, out=out),
            "take": lambda: buffer.take(indices),
        }[way]

    def time_256_rows(self, way):
        self.call()


class PeakMemory:
    """A batch needs only its own bytes: no index arrays, no second copy."""

    params = ([1000, 10_000],)
    param_names = ("rows",)

    def setup(self, rows):
        self.buffer = ReplayBuffer(10_000, spec=LAYOUTS["wide"].spec, seed=0)
        self.buffer.put(LAYOUTS["wide"].rows(10_000))

    def peakmem_sample(self, rows):
        self.buffer.sample(rows)
