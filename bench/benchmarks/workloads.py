"""The three workloads of all buffer benchmarks, and rows of them."""

from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True)
class Workload:
    """Columns (name, dtype, shape of one row) and the number of rows in the buffer."""

    name: str
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    capacity: int

    @property
    def spec(self):
        return {name: (np.dtype(dtype), shape) for name, dtype, shape in self.columns}

    @property
    def row_nbytes(self):
        return sum(np.dtype(dtype).itemsize * prod(shape) for _, dtype, shape in self.columns)

    def rows(self, num, seed=0):
        """`num` C-contiguous rows of random numbers."""
        draw = np.random.default_rng(seed)
        return {
            name: draw.integers(0, 100, (num, *shape), dtype=np.uint8).astype(dtype)
            for name, dtype, shape in self.columns
        }


def _transitions(state, action, state_dtype="float32", action_dtype="float32"):
    return (
        ("state", state_dtype, state),
        ("action", action_dtype, action),
        ("reward", "float32", ()),
        ("state_new", state_dtype, state),
        ("terminal", "float32", ()),
    )


CARTPOLE = Workload("cartpole", _transitions((4,), (), action_dtype="int64"), 1_000_000)
WIDE = Workload("wide", _transitions((376,), (17,)), 200_000)
ATARI = Workload("atari", (("state", "uint8", (84, 84, 4)), ("state_new", "uint8", (84, 84, 4))), 30_000)
WORKLOADS = {workload.name: workload for workload in (CARTPOLE, WIDE, ATARI)}
