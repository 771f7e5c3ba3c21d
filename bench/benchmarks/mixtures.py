"""A batch of which two buffers give half each, side by side with rlox's `py_sample_mixed`."""

import itertools

from benchmarks.peers import filled
from benchmarks.workloads import CARTPOLE
from really import Mixture

HELD = 100_000


class Really:
    """`Mixture` of two default buffers."""

    def __init__(self):
        self.parts = [filled("really", CARTPOLE, HELD) for _ in range(2)]
        self.batch = Mixture([(part.buffer, 0.5) for part in self.parts], seed=0).sample


class Rlox:
    """`py_sample_mixed` of two buffers, with a seed a batch."""

    def __init__(self):
        import rlox

        self.mixed, self.seeds = rlox.py_sample_mixed, itertools.count()
        self.parts = [filled("rlox", CARTPOLE, HELD) for _ in range(2)]

    def batch(self, num):
        return self.mixed(*(part.buffer for part in self.parts), 0.5, num, next(self.seeds))


PEERS = {"really": Really, "rlox": Rlox}


class Mixed:
    """A mixture of two buffers costs about as much as two batches of half the size."""

    params = (list(PEERS), [32, 256, 1024])
    param_names = ("peer", "rows")

    def setup(self, peer, rows):
        if peer not in PEERS:
            raise NotImplementedError(f"{peer} has no mixtures")
        self.peer = PEERS[peer]()

    def time_mixed(self, peer, rows):
        self.peer.batch(rows)


class Apart:
    """The two buffers of the mixture alone, one after the other."""

    params = ([32, 256, 1024],)
    param_names = ("rows",)

    def setup(self, rows):
        self.parts = [filled("really", CARTPOLE, HELD).buffer for _ in range(2)]

    def time_two_batches(self, rows):
        return [part.sample(rows // 2) for part in self.parts]
