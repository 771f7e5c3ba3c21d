"""A process that writes numbered rows to a buffer on disk and acknowledges each put, until it is killed.

    python tests/disk_writer.py FOLDER CAPACITY SPARE SEED

Row k has k in every value. Its `state` is a stack of frames k to k + 3 and its `state_new` one of k + 1 to k + 4, so
that the buffer stores each frame once. The process writes records of 48 bytes to standard output: one before it opens
the buffer, then one after each put and each batch. A record is the number of the next row (-1 in the first record) and
the 40 bytes of the generator's state. The imports are light.
"""

import os
import sys

import numpy as np

from really import ReplayBuffer
from really.replay.disk import folder as storage

SPEC = {"number": np.int64, "wide": (np.int64, (120,)), "image": (np.uint8, (700,)), "flag": np.float64}
STACK = (np.int64, (4, 8, 9))
SPEC |= {"state": STACK, "state_new": STACK}


def rows(first, num):
    """Rows `first` to `first + num`, counted from the first put."""
    number = np.arange(first, first + num)
    wide = np.broadcast_to(number[:, None], (num, 120))
    image = np.broadcast_to(number.astype(np.uint8)[:, None], (num, 700))
    return {
        "number": number,
        "wide": wide,
        "image": image,
        "flag": number.astype(np.float64),
        "state": stacks(number),
        "state_new": stacks(number + 1),
    }


def stacks(number):
    """Stacks of frames [row, 4, 8, 9], the first frame of each by number."""
    frames = number[:, None] + np.arange(4)
    return np.ascontiguousarray(np.broadcast_to(frames[:, :, None, None], (len(number), 4, 8, 9)))


def torn(batch):
    """Returns the torn rows of a batch: those that mix parts of several rows."""
    number = batch["number"]
    whole = (batch["wide"] == number[:, None]).all(axis=1) & (batch["flag"] == number)
    for key, first in (("state", number), ("state_new", number + 1)):
        whole &= (batch[key] == stacks(first)).all(axis=(1, 2, 3))
    return ~(whole & (batch["image"] == number.astype(np.uint8)[:, None]).all(axis=1))


def main():
    folder, capacity, spare, seed = sys.argv[1], *map(int, sys.argv[2:])
    draw = np.random.default_rng(seed)
    said = sys.stdout.fileno()
    assert storage  # imported by now, so that what follows the first record is the making of the files
    os.write(said, np.array([-1] * 6).tobytes())
    buffer = ReplayBuffer(capacity, spec=SPEC, path=folder, spare=spare, seed=0)
    number = buffer._ring.num_put
    while True:
        num = int(draw.choice([1, 7, spare // 2, spare, 3 * spare]))
        buffer.put(rows(number, num))
        number += num
        os.write(said, np.int64(number).tobytes() + buffer._ring.generator_bytes())
        buffer.sample(16)
        os.write(said, np.int64(number).tobytes() + buffer._ring.generator_bytes())


if __name__ == "__main__":
    main()
