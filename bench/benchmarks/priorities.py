"""Prioritized replay: sampling rows by priority and updating priorities, side by side with cpprb and rlox.

The peers have no call that draws row numbers alone: their `sample` also gathers the batch. In `Draw` their columns are
as few as they allow, so that nearly all of the time is the search. `Gathering` and `Update` are calls of all buffers
with CartPole rows. Each call gets new row numbers and priorities, because the packages save work if nothing changes.
"""

import itertools

import numpy as np

from benchmarks import first_of
from benchmarks.workloads import CARTPOLE
from really import ReplayBuffer

Priorities = first_of("Priorities", "really.replay.priorities", "really.priorities")

HELD = 1_000_000
DIFFERENT = 100  # batches of row numbers and priorities that take turns


class Really:
    """This package: a sum tree without columns, else a buffer with them."""

    def __init__(self, num_rows, priorities, columns=None):
        if columns is None:
            self.priorities = Priorities(num_rows, seed=0)
            self.priorities.add(0, num_rows)
            self.update = self.priorities.update
        else:
            self.buffer = ReplayBuffer(num_rows, alpha=0.6, seed=0)
            self.buffer.put(columns)
            self.update = self.buffer.update_priorities
        self.update(np.arange(num_rows), priorities)

    def draw(self, num):
        return self.priorities.sample(num, 0.4)

    def batch(self, num):
        return self.buffer.sample(num, beta=0.4)


class Cpprb:
    """cpprb's PrioritizedReplayBuffer, with the same alpha and beta."""

    def __init__(self, num_rows, priorities, columns=None):
        import cpprb

        columns = columns or {"reward": np.zeros(num_rows, np.float32)}
        spec = {name: {"shape": column.shape[1:] or 1, "dtype": column.dtype} for name, column in columns.items()}
        self.buffer = cpprb.PrioritizedReplayBuffer(num_rows, spec, alpha=0.6, eps=1e-6)
        self.buffer.add(**columns, priorities=priorities)
        self.update = self.buffer.update_priorities

    def draw(self, num):
        return self.buffer.sample(num, 0.4)

    batch = draw


class Rlox:
    """rlox's PrioritizedReplayBuffer, with the same alpha and beta; it takes one row at a time."""

    def __init__(self, num_rows, priorities, columns=None):
        import rlox

        narrow = columns or {"state": np.zeros((num_rows, 1), np.float32)}
        self.buffer = rlox.PrioritizedReplayBuffer(num_rows, narrow["state"].shape[1], 1, alpha=0.6, beta=0.4)
        action = np.zeros(1, np.float32)
        for state, after, priority in zip(
            narrow["state"], narrow.get("state_new", narrow["state"]), priorities, strict=True
        ):
            self.buffer.push(state, action, 1.0, False, False, after, float(priority))
        self.seeds = itertools.count()

    def update(self, numbers, given):
        self.buffer.update_priorities(numbers, given)

    def draw(self, num):
        return self.buffer.sample(num, next(self.seeds))

    batch = draw

    @staticmethod
    def arguments(numbers, given):
        """The dtypes that rlox takes."""
        return numbers.astype(np.uint64), given.astype(np.float64)


PEERS = {"really": Really, "cpprb": Cpprb, "rlox": Rlox}
UPDATES = {
    "drawn": lambda draw, num: np.sort(draw.integers(0, HELD, num)),
    "any": lambda draw, num: draw.integers(0, HELD, num),
}


def priorities(num):
    return np.random.default_rng(0).gamma(0.5, size=num)


class Draw:
    """Drawing rows and their weights is at least five times as fast at every batch size."""

    params = (list(PEERS), [32, 256, 1024])
    param_names = ("peer", "rows")

    def setup(self, peer, rows):
        self.peer = PEERS[peer](HELD, priorities(HELD))

    def time_draw(self, peer, rows):
        self.peer.draw(rows)


class Gathering(Draw):
    """The same with the CartPole rows themselves."""

    def setup(self, peer, rows):
        self.peer = PEERS[peer](HELD, priorities(HELD), CARTPOLE.rows(HELD))

    def time_draw(self, peer, rows):
        self.peer.batch(rows)


class Update:
    """Updating priorities is no slower, for rows in the order of a batch ("drawn") and in any order."""

    params = (list(PEERS), list(UPDATES), [32, 256, 1024])
    param_names = ("peer", "order", "rows")

    def setup(self, peer, order, rows):
        self.peer = PEERS[peer](HELD, priorities(HELD), CARTPOLE.rows(HELD))
        draw = np.random.default_rng(1)
        self.calls = [
            (UPDATES[order](draw, rows), draw.gamma(0.5, size=rows).astype(np.float32)) for _ in range(DIFFERENT)
        ]
        if peer == "rlox":
            self.calls = [self.peer.arguments(*call) for call in self.calls]
        self.at = 0

    def time_update(self, peer, order, rows):
        self.at = (self.at + 1) % DIFFERENT
        numbers, given = self.calls[self.at]
        given += given.dtype.type(1e-3)  # else the second turn would change nothing
        self.peer.update(numbers, given)


class Add:
    """New rows get the largest priority, at a few nanoseconds each."""

    params = ([1, 1000, 20_000],)
    param_names = ("rows",)

    def setup(self, rows):
        self.peer = Really(HELD, priorities(HELD))

    def time_add(self, rows):
        self.peer.priorities.add(self.peer.priorities.newest, rows)


class Held:
    """A draw costs the same for any number of rows, except for cache misses and one more level of the tree."""

    params = ([10_000, 100_000, 1_000_000, 10_000_000],)
    param_names = ("held",)

    def setup(self, held):
        self.peer = Really(held, priorities(held))

    def time_draw_256(self, held):
        self.peer.draw(256)
