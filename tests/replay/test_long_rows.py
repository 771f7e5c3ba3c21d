"""Long rows of every length, which are copied in parallel, and long batches, which bypass the cache, are exact."""

import mmap

import numpy as np
import pytest

from really import ReplayBuffer
from really.replay._ring import CACHE_NBYTES

SHORT = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 31, 33, 63, 64, 65, 100, 127, 200, 255, 511, 512, 513, 575, 576, 1000]
LONG = [4096, 4097, 7056, 28_223, 28_224]
PAST_THE_CACHE = 8 * CACHE_NBYTES  # bytes of a batch


def rows_of(nbytes, num, more=300):
    draw = np.random.default_rng(nbytes)
    return {
        "long": draw.integers(0, 256, (num, more + nbytes), np.uint8),
        "any": draw.integers(0, 256, (num, nbytes), np.uint8),
        "last": draw.integers(0, 256, num, np.uint8),
    }


def fenced(column, num):
    """An unaligned array for `num` rows, and the zero bytes around it."""
    nbytes = num * column[0].nbytes
    bytes_around = np.zeros(nbytes + 200, np.uint8)
    return bytes_around[101 : 101 + nbytes].reshape(num, *column.shape[1:]), bytes_around


def check_take(buffer, rows, picks):
    """Batches of these rows, in new arrays and in the caller's."""
    batch = buffer.take(picks)
    rooms = {key: fenced(column, len(picks)) for key, column in rows.items()}
    buffer.take(picks, out={key: room for key, (room, _) in rooms.items()})
    for key, column in rows.items():
        room, around = rooms[key]
        assert np.array_equal(batch[key], column[picks])
        assert np.array_equal(room, column[picks])
        assert not around[:101].any()
        assert not around[101 + room.nbytes :].any()


@pytest.mark.parametrize("nbytes", SHORT + LONG)
@pytest.mark.parametrize("more", [300, 2200])
def test_rows_of_any_length(nbytes, more):
    rows = rows_of(nbytes, 40, more)
    buffer = ReplayBuffer(40, dedup=False)
    buffer.put(rows)
    for num in (1, 2, 7, 8, 9, 16, 37):
        check_take(buffer, rows, np.random.default_rng(num).integers(0, 40, num))


@pytest.mark.parametrize("nbytes", [513, 575, 640, *LONG])
@pytest.mark.parametrize("left", [0, 3])
def test_batches_past_the_cache(nbytes, left):
    rows = rows_of(nbytes, 40)
    buffer = ReplayBuffer(40, dedup=False)
    buffer.put(rows)
    num = PAST_THE_CACHE // nbytes // 8 * 8 + 8 + left
    check_take(buffer, rows, np.random.default_rng(num).integers(0, 40, num))


@pytest.mark.parametrize("shape", [(84, 84), (37, 35), (220, 330)])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("past_the_cache", [False, True])
def test_rows_of_frames(shape, axis, past_the_cache):
    num_rows = 60
    frames = np.random.default_rng(5).integers(0, 256, (num_rows + 4, *shape), np.uint8)
    frames[30:34] = frames[29]  # the screen stands still
    stacks = np.stack([frames[at : at + num_rows + 1] for at in range(4)], axis=1 if axis == 0 else -1)
    rows = {"state": stacks[:-1].copy(), "state_new": stacks[1:].copy(), "last": np.arange(num_rows, dtype=np.uint8)}
    buffer = ReplayBuffer(num_rows, stack=(4, axis))
    for first in range(0, num_rows, 20):
        buffer.put({key: column[first : first + 20] for key, column in rows.items()})
    # Each of the blocks of frames, at most five, has whole pages.
    assert buffer.memory()["held"] < buffer.memory()["naive"] / 3 + 5 * (mmap.PAGESIZE - 4096)
    num = PAST_THE_CACHE // rows["state"][0].nbytes + 5 if past_the_cache else 21
    check_take(buffer, rows, np.random.default_rng(num).integers(0, num_rows, num))
