"""A process that writes a buffer on disk until it is killed: rows that say which they are, each put acknowledged.

    python tests/disk_writer.py FOLDER CAPACITY SPARE SEED

Row number k of all time has k in every value; its state is a stack of the frames k to k + 3, the state after it one
of k + 1 to k + 4, so that frames are stored once. To standard output go records of 48 bytes: one when it begins to open
the buffer, then one after each put and one after each batch: the number of the row to come (-1 in the first), and the
40 bytes of the generator's state. Imports nothing heavy.
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
    """Rows `first` to `first + num` of all time."""
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
    """[row, 4, 8, 9] frames from `number` on."""
    frames = number[:, None] + np.arange(4)
    return np.ascontiguousarray(np.broadcast_to(frames[:, :, None, None], (len(number), 4, 8, 9)))


def torn(batch):
    """Which rows of a batch have parts of several rows."""
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
