"""bench/floor.c from Python: compiled on first use, with the calls of the peers and timing inside C."""

import ctypes
import functools
import shutil
import subprocess
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).resolve().parents[1] / "floor.c"
NUMBERS = {"cartpole": 0, "wide": 1, "atari": 2}


@functools.cache
def library():
    """The compiled floor."""
    built = SOURCE.with_suffix("")
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("bench/floor.c: expected a C compiler named cc or gcc, got none")
        partial = built.with_suffix(".partial")
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", str(SOURCE), "-o", str(partial)], check=True)
        partial.rename(built)
    floor = ctypes.CDLL(str(built))
    floor.floor_stride.restype = ctypes.c_size_t
    floor.floor_reserve.restype, floor.floor_read.restype = ctypes.c_void_p, ctypes.c_uint64
    floor.floor_time_gather.restype = floor.floor_time_scatter.restype = ctypes.c_double
    return floor


class Floor:
    """Records of one workload in memory of their own; `best` selects the fastest gather."""

    def __init__(self, workload, capacity=None, best=False):
        self.workload, self.number, self.best = workload, NUMBERS[workload.layout], best
        self.capacity = capacity or workload.capacity
        self.nbytes = self.capacity * library().floor_stride(self.number)
        self.rows = library().floor_reserve(ctypes.c_size_t(self.nbytes))

    def __del__(self):
        library().floor_release(ctypes.c_void_p(self.rows), ctypes.c_size_t(self.nbytes))

    def outputs(self, num):
        """Columns of `num` rows, each on a cache line."""
        return {name: _aligned((num, *shape), dtype) for name, dtype, shape in self.workload.columns}

    def put(self, first, columns):
        """Writes the columns to the records from `first` on."""
        rows = self.rows + first * library().floor_stride(self.number)
        num = len(next(iter(columns.values())))
        library().floor_scatter(self.number, ctypes.c_void_p(rows), ctypes.c_size_t(num), self._pointers(columns))

    def take(self, picks, columns):
        """Copies the picked records to the columns."""
        gather = library().floor_best_gather if self.best else library().floor_gather
        gather(
            self.number,
            ctypes.c_void_p(self.rows),
            _pointer(picks),
            ctypes.c_size_t(len(picks)),
            self._pointers(columns),
        )

    def seconds_per_gather(self, picks, num, columns):
        """Seconds per batch of `num` rows, over all of `picks`."""
        repeats = len(picks) // num
        seconds = library().floor_time_gather(
            self.number,
            ctypes.c_void_p(self.rows),
            _pointer(picks),
            ctypes.c_size_t(num),
            self._pointers(columns),
            ctypes.c_size_t(repeats),
            ctypes.c_int(self.best),
        )
        return seconds / repeats

    def seconds_per_scatter(self, columns, repeats):
        """Seconds per put of the columns."""
        num = len(next(iter(columns.values())))
        seconds = library().floor_time_scatter(
            self.number,
            ctypes.c_void_p(self.rows),
            ctypes.c_size_t(self.capacity),
            ctypes.c_size_t(num),
            self._pointers(columns),
            ctypes.c_size_t(repeats),
        )
        return seconds / repeats

    def _pointers(self, columns):
        addresses = [columns[name].ctypes.data for name, _, _ in self.workload.columns]
        return (ctypes.c_void_p * len(addresses))(*addresses)


class FrameFloor:
    """Adjacent frames of 84x84 bytes, gathered to rows as a sampler with frame deduplication has to."""

    def __init__(self, frames):
        self.frames = frames
        self.draw = np.random.default_rng(0)

    def sampler(self, num, streams):
        """Returns a call that gathers `num` other rows each time to the same memory, past the cache or through it."""
        state, after = (_aligned((num, 4, 84, 84), np.uint8) for _ in range(2))
        picks = self.draw.integers(0, len(self.frames) - 4, (64, num))
        at = iter(range(1 << 60))

        def call():
            self.take(picks[next(at) % 64], state, after, streams)

        return call

    def take(self, picks, state, after, streams):
        """Copies frames picks[i] to picks[i] + 4 to row i: the first four to `state`, the last four to `after`."""
        library().floor_gather_frames(
            _pointer(self.frames),
            _pointer(picks),
            ctypes.c_size_t(len(picks)),
            _pointer(state),
            _pointer(after),
            ctypes.c_int(streams),
        )


def read_all(one, other):
    """Exclusive or of all words of two arrays of one size: reads each byte once."""
    return library().floor_read(_pointer(one), _pointer(other), ctypes.c_size_t(one.nbytes // 8))


def _pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def _aligned(shape, dtype):
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes].view(dtype).reshape(shape)
