"""Our buffer and its peers behind one interface, each used in the fastest way that its documentation names.

A timed loop calls `put`, `put_one` or `sample` of a peer with arguments that were made before: `for_put(rows)`,
`for_one(row)` and `for_sample(num)` are these. So no wrapper of ours is in the time of a peer.
"""

import functools
import importlib.util
import itertools
import random
from math import prod

import numpy as np

from benchmarks.c_floor import Floor
from really import ReplayBuffer

PACKAGES = {"cpprb": "cpprb", "rlox": "rlox", "torchrl": "torchrl", "flashbax": "flashbax"}


class Peer:
    """Calls with the rows, the row and the number of rows as they are."""

    name: str
    fresh = False  # runs where malloc gives freed blocks back to the system, as Python starts

    def for_put(self, rows):
        return (rows,)

    def for_one(self, row):
        return (row,)

    def for_sample(self, num):
        """Yields arguments without end."""
        return itertools.repeat((num,))


class Really(Peer):
    """This package with its default options."""

    name = "really"

    def __init__(self, workload, capacity):
        self.buffer = self.made(capacity, spec=workload.spec, seed=0)
        self.put = self.put_one = self.buffer.put
        self.sample = self.buffer.sample

    made = ReplayBuffer


class ReallyWhole(Really):
    """This package without frame deduplication: whole rows, as the others store them."""

    name = "dedup=False"

    made = functools.partial(ReplayBuffer, dedup=False)


class NumPy(Peer):
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


class NumPyFresh(NumPy):
    """The same in a fresh process, where each large batch costs page faults."""

    name = "numpy, fresh"
    fresh = True


class NumPyIndices(NumPy):
    """The same, but puts with fancy indexing, as many NumPy buffers do; slices are faster if they suffice."""

    name = "indices"

    def put(self, rows):
        num = len(next(iter(rows.values())))
        places = (self.next + np.arange(num)) % self.capacity
        for name, column in self.columns.items():
            column[places] = rows[name]
        self._advance(num)


class PythonList(Peer):
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


class Cpprb(Peer):
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


class Rlox(Peer):
    """rlox's ReplayBuffer (float32 only): flat arrays to `push_batch`, a seed a sample."""

    name = "rlox"

    def __init__(self, workload, capacity):
        import rlox

        sizes = {name: prod(shape) for name, _, shape in workload.columns}
        self.buffer = rlox.ReplayBuffer(capacity, sizes["state"], sizes["action"])
        self.put, self.put_one, self.sample = self.buffer.push_batch, self.buffer.push, self.buffer.sample

    def for_put(self, rows):
        flat = {key: np.ascontiguousarray(rows[key], np.float32).reshape(-1) for key in rows}
        flags = np.zeros((2, len(rows["reward"])), np.uint8)
        return flat["state"], flat["state_new"], flat["action"], flat["reward"], *flags

    def for_one(self, row):
        action = np.atleast_1d(np.asarray(row["action"], np.float32))
        return row["state"], action, float(row["reward"]), bool(row["terminal"]), False, row["state_new"]

    def for_sample(self, num):
        return ((num, seed) for seed in itertools.count())


class TorchRL(Peer):
    """torchrl's ReplayBuffer over one preallocated TensorDict."""

    name = "torchrl"

    def __init__(self, workload, capacity):
        import torch
        from torchrl.data import LazyTensorStorage, ReplayBuffer

        torch.set_num_threads(1)
        self.buffer = ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=1)
        self.put, self.put_one, self.sample = self.buffer.extend, self.buffer.add, self.buffer.sample

    def for_put(self, rows):
        from tensordict import TensorDict

        num = len(next(iter(rows.values())))
        return (TensorDict(rows, batch_size=[num]),)

    def for_one(self, row):
        from tensordict import TensorDict

        return (TensorDict({name: np.asarray(value) for name, value in row.items()}, batch_size=[]),)


class Flashbax(Peer):
    """flashbax's item buffer: compiled functions of a state, which a put gives away."""

    name = "flashbax"

    def __init__(self, workload, capacity):
        import jax

        self.jax, self.capacity, self.made = jax, capacity, {}
        row = {name: jax.numpy.zeros(shape, dtype) for name, dtype, shape in workload.columns}
        self.state = self._made(1)[0].init(row)
        self.key = jax.random.PRNGKey(0)

    def _made(self, num):
        """A buffer whose batches have `num` rows, and its compiled functions."""
        import flashbax

        if num not in self.made:
            sizes = {"max_length": self.capacity, "min_length": 1, "sample_batch_size": num, "add_batches": True}
            buffer = flashbax.make_item_buffer(**sizes)
            self.made[num] = buffer, self.jax.jit(buffer.add, donate_argnums=0), self.jax.jit(buffer.sample)
        return self.made[num]

    def for_put(self, rows):
        return ({name: self.jax.numpy.asarray(column) for name, column in rows.items()},)

    def for_one(self, row):
        return ({name: self.jax.numpy.asarray(value)[None] for name, value in row.items()},)

    def put(self, rows):
        self.state = self.jax.block_until_ready(self.made[1][1](self.state, rows))

    put_one = put

    def for_sample(self, num):
        sample = self._made(num)[2]
        return ((sample, key) for key in itertools.cycle(self.jax.random.split(self.key, 64)))

    def sample(self, sample, key):
        return self.jax.block_until_ready(sample(self.state, key))


_ALL = (Really, ReallyWhole, NumPy, NumPyFresh, NumPyIndices, PythonList, Cpprb, Rlox, TorchRL, Flashbax)
PEERS = {peer.name: peer for peer in _ALL}


def peers_for(workload):
    """Names of the peers that support the workload, whether or not they are installed."""
    able = [name for name in PEERS if workload.peers is None or name in workload.peers]
    unable = {"atari": "rlox", "cartpole": "dedup=False"}.get(workload.layout)
    return [name for name in able if name != unable]


def is_installed(name):
    """Whether the package of a peer is there."""
    return name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None


def filled(name, workload, capacity=None):
    """A peer filled with `capacity` rows."""
    capacity = capacity or workload.capacity
    peer = PEERS[name](workload, capacity)
    size = min(capacity, 500 if workload.layout == "atari" else 10_000)
    arguments = peer.for_put(workload.rows(size))
    for _ in range(-(-min(capacity, getattr(peer, "capacity", capacity)) // size)):
        peer.put(*arguments)
    return peer


def filled_floor(workload, capacity=None, best=False):
    """The C floor, or the best C, filled with as many rows."""
    floor = Floor(workload, capacity, best)
    num = min(floor.capacity, 32 if workload.layout == "atari" else 10_000)
    rows = workload.rows(num)
    for first in range(0, floor.capacity - num + 1, num):
        floor.put(first, rows)
    return floor
