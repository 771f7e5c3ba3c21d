"""The workloads of all buffer benchmarks, and rows of them.

Rows come as environments make them: episodes of consecutive steps, in which `state_new` is the next row's `state`, of
random bytes. Rows of an `unrelated` workload share nothing, as shuffled or offline data do.
"""

from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True)
class Workload:
    """Columns (name, dtype, shape of one row), the number of rows in the buffer, and how rows follow each other.

    `layout` is the name under which bench/floor.c knows the columns. `peers` measures only some peers, or all.
    """

    name: str
    layout: str
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    capacity: int
    episode: int  # steps
    shares: bool = True
    peers: tuple[str, ...] | None = None

    @property
    def spec(self):
        return {name: (np.dtype(dtype), shape) for name, dtype, shape in self.columns}

    @property
    def row_nbytes(self):
        return sum(np.dtype(dtype).itemsize * prod(shape) for _, dtype, shape in self.columns)

    def rows(self, num, seed=0):
        """`num` C-contiguous rows of random numbers."""
        draw = np.random.default_rng(seed)
        first = np.arange(num) + np.arange(num) // self.episode if self.shares else 2 * np.arange(num)
        states = self._observations(draw, int(first[-1]) + 2)
        given = {"state": states[first], "state_new": states[first + 1]}
        return {
            name: given[name] if name in given else _random(draw, (num, *shape), dtype)
            for name, dtype, shape in self.columns
        }

    def _observations(self, draw, num):
        """Observations `[num, ...]`; stacks of frames have all but one frame of the one before, if rows share."""
        dtype, shape = self.spec["state"]
        if len(shape) < 3 or not self.shares:
            return _random(draw, (num, *shape), dtype)
        frames = _random(draw, (num + shape[0] - 1, *shape[1:]), dtype)
        return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, shape[0], axis=0), -1, 1)


def _random(draw, shape, dtype):
    return draw.integers(0, 256, shape, dtype=np.uint8).astype(dtype, copy=False)


def _transitions(state, action, state_dtype="float32", action_dtype="float32"):
    return (
        ("state", state_dtype, state),
        ("action", action_dtype, action),
        ("reward", "float32", ()),
        ("state_new", state_dtype, state),
        ("terminal", "float32", ()),
    )


_NARROW = ("cartpole", _transitions((4,), (), action_dtype="int64"))
_WIDE = ("wide", _transitions((376,), (17,)))
_IMAGES = ("atari", (("state", "uint8", (4, 84, 84)), ("state_new", "uint8", (4, 84, 84))))
_FEW = ("really", "dedup=False", "numpy", "cpprb", "rlox")

CARTPOLE = Workload("cartpole", *_NARROW, 1_000_000, episode=200)
SMALL = Workload("cartpole 100k", *_NARROW, 100_000, episode=200, peers=("really", "numpy", "cpprb", "rlox"))
WIDE = Workload("wide", *_WIDE, 200_000, episode=1000)
WIDE_UNRELATED = Workload("wide unrelated", *_WIDE, 200_000, 1000, shares=False, peers=_FEW)
ATARI = Workload("atari", *_IMAGES, 20_000, episode=1000)
ATARI_UNRELATED = Workload("atari unrelated", *_IMAGES, 20_000, 1000, shares=False, peers=_FEW)
WORKLOADS = {workload.name: workload for workload in (CARTPOLE, SMALL, WIDE, WIDE_UNRELATED, ATARI, ATARI_UNRELATED)}
# One workload of each layout, for benchmarks and tests that need no more.
LAYOUTS = {workload.layout: workload for workload in (CARTPOLE, WIDE, ATARI)}
