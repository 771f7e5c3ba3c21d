"""Our buffer and its peers behind one interface, each used in the fastest way that its documentation names."""

import random
from math import prod

import numpy as np

from benchmarks.c_floor import Floor
from really import ReplayBuffer


class Really:
    """This package without frame deduplication, as the others store rows (frames.py measures it)."""

    name = "really"

    def __init__(self, workload, capacity):
        self.buffer = ReplayBuffer(capacity, spec=workload.spec, seed=0, dedup=False)
        self.put = self.put_one = self.buffer.put
        self.sample = self.buffer.sample


class NumPy:
    """Preallocated columns; puts slices, samples with fancy indexing."""

    name = "numpy"

    def __init__(self, workload, capacity):
        self.capacity, self.next, self.size = capacity, 0, 0
        self.columns = {name: np.zeros((capacity, *shape), dtype) for name, dtype, shape in workload.columns}
        self.draw = np.random.default_rng(0)

    def put(self, rows):
        num = len(next(iter(rows.values())))
        head = min(num, self.capacity - self.next)
        for name, column in self.columns.items():
            column[self.next : self.next + head] = rows[name][:head]
            column[: num - head] = rows[name][head:]
        self._advance(num)

    def put_one(self, row):
        for name, column in self.columns.items():
            column[self.next] = row[name]
        self._advance(1)

    def sample(self, num):
        picks = self.draw.integers(0, self.size, num)
        return {name: column[picks] for name, column in self.columns.items()}

    def _advance(self, num):
        self.next = (self.next + num) % self.capacity
        self.size = min(self.size + num, self.capacity)


class NumPyIndices(NumPy):
    """The same, but puts with fancy indexing, as many NumPy buffers do; slices are faster if they suffice."""

    name = "indices"

    def put(self, rows):
        num = len(next(iter(rows.values())))
        places = (self.next + np.arange(num)) % self.capacity
        for name, column in self.columns.items():
            column[places] = rows[name]
        self._advance(num)


class PythonList:
    """A list of transitions, as in course code; limited to 100,000 rows by its memory."""

    name = "list"

    def __init__(self, workload, capacity):
        self.names = [name for name, _, _ in workload.columns]
        self.capacity, self.next, self.rows = min(capacity, 100_000), 0, []

    def put(self, rows):
        for row in zip(*(rows[name] for name in self.names), strict=True):
            self._append(row)

    def put_one(self, row):
        self._append(tuple(row[name] for name in self.names))

    def sample(self, num):
        batch = random.choices(self.rows, k=num)
        return {name: np.array(column) for name, column in zip(self.names, zip(*batch, strict=True), strict=True)}

    def _append(self, row):
        if len(self.rows) < self.capacity:
            self.rows.append(row)
        else:
            self.rows[self.next] = row
            self.next = (self.next + 1) % self.capacity


class Cpprb:
    """cpprb's ReplayBuffer with dtypes in `env_dict`, `add` with keyword arrays."""

    name = "cpprb"

    def __init__(self, workload, capacity):
        import cpprb

        columns = {name: {"shape": shape or 1, "dtype": np.dtype(dtype)} for name, dtype, shape in workload.columns}
        self.buffer = cpprb.ReplayBuffer(capacity, env_dict=columns)
        self.sample = self.buffer.sample

    def put(self, rows):
        self.buffer.add(**rows)

    put_one = put


class Rlox:
    """rlox's ReplayBuffer (float32 only): flat arrays to `push_batch`, a seed a sample."""

    name = "rlox"

    def __init__(self, workload, capacity):
        import rlox

        sizes = {name: prod(shape) for name, _, shape in workload.columns}
        self.buffer = rlox.ReplayBuffer(capacity, sizes["state"], sizes["action"])
        self.flat, self.seed = (None, ()), 0

    def put(self, rows):
        if self.flat[0] is not rows:
            self.flat = (rows, self._flat(rows))
        self.buffer.push_batch(*self.flat[1])

    def put_one(self, row):
        if self.flat[0] is not row:
            action = np.atleast_1d(np.asarray(row["action"], np.float32))
            self.flat = (
                row,
                (row["state"], action, float(row["reward"]), bool(row["terminal"]), False, row["state_new"]),
            )
        self.buffer.push(*self.flat[1])

    def sample(self, num):
        self.seed += 1
        return self.buffer.sample(num, self.seed)

    def _flat(self, rows):
        flat = {key: np.ascontiguousarray(rows[key], np.float32).reshape(-1) for key in rows}
        num = len(rows["reward"])
        flags = (np.zeros(num, np.uint8), np.zeros(num, np.uint8))
        return flat["state"], flat["state_new"], flat["action"], flat["reward"], *flags


PEERS = {peer.name: peer for peer in (Really, NumPy, NumPyIndices, PythonList, Cpprb, Rlox)}


def peers_for(workload):
    """Names of the peers that support the workload."""
    return [name for name in PEERS if name != "rlox" or all(dtype != "uint8" for _, dtype, _ in workload.columns)]


def filled(name, workload, capacity=None):
    """A peer filled with `capacity` rows."""
    capacity = capacity or workload.capacity
    peer = PEERS[name](workload, capacity)
    rows = workload.rows(min(capacity, 32 if workload.name == "atari" else 10_000))
    num = len(next(iter(rows.values())))
    for _ in range(-(-min(capacity, getattr(peer, "capacity", capacity)) // num)):
        peer.put(rows)
    return peer


def filled_floor(workload, capacity=None, best=False):
    """The C floor, or the best C, filled with as many rows."""
    floor = Floor(workload, capacity, best)
    rows = workload.rows(min(floor.capacity, 32 if workload.name == "atari" else 10_000))
    num = len(next(iter(rows.values())))
    for first in range(0, floor.capacity - num + 1, num):
        floor.put(first, rows)
    return floor
