"""Claim: frame deduplication takes an eighth of the memory, samples as fast, and puts faster from runners.

The rows are of 16 games, stacks of four 84x84 frames, in chunks of 128 steps. `once` stores each frame once, `whole`
stores every row as it is, `runners` puts messages of runners.
"""

import numpy as np

from benchmarks import first_of
from really import ReplayBuffer

encode = first_of("encode", "really.replay.frame_encoding", "really.frames")

CAPACITY, GAMES, STEPS = 20_000, 16, 128


def chunks(num, seed=0, axis=0):
    """`num` chunks `[GAMES * STEPS, 4, 84, 84]`, one game's steps after the other's; the games go on."""
    draw = np.random.default_rng(seed)
    last = [draw.integers(0, 255, (4, 84, 84), np.uint8) for _ in range(GAMES)]
    for _ in range(num):
        states, after = [], []
        for game in range(GAMES):
            frames = np.concatenate([last[game], draw.integers(0, 255, (STEPS, 84, 84), np.uint8)])
            stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)
            states.append(stacks[:-1])
            after.append(stacks[1:])
            last[game] = frames[-4:]
        columns = {"state": np.concatenate(states), "state_new": np.concatenate(after)}
        columns = {
            key: np.ascontiguousarray(np.moveaxis(rows, 1, axis + 1 if axis >= 0 else axis))
            for key, rows in columns.items()
        }
        yield columns | {"action": np.zeros(GAMES * STEPS, np.int64), "reward": np.zeros(GAMES * STEPS, np.float32)}


OPTIONS = {"whole": lambda axis: {"dedup": False}, "once": lambda axis: {"stack": (4, axis)}}
"""Options of each kind of buffer, by stack axis."""


def filled(kind, axis=0):
    """A full buffer, and the chunk to put into it."""
    buffer = ReplayBuffer(CAPACITY, seed=0, **OPTIONS["whole" if kind == "whole" else "once"](axis))
    for chunk in chunks(CAPACITY // (GAMES * STEPS) + 1, axis=axis):
        buffer.put(chunk)
    return buffer, encode(chunk) if kind == "runners" else chunk


class Frames:
    """The claim is the ratio of `once` to `whole`, in one process."""

    params = (["whole", "once", "runners"],)
    param_names = ("stored",)

    def setup(self, kind):
        self.buffer, self.chunk = filled(kind)

    def time_put_2048(self, kind):
        self.buffer.put(self.chunk)

    def time_sample_32(self, kind):
        self.buffer.sample(32)

    def time_sample_256(self, kind):
        self.buffer.sample(256)

    def time_sample_1024(self, kind):
        self.buffer.sample(1024)

    def track_bytes_a_row(self, kind):
        return self.buffer.memory()["held"] / len(self.buffer)


class ChannelsLast(Frames):
    """The same with the stack axis last, as in Stable-Baselines3 and the published DQN."""

    params = (["whole", "once"],)

    def setup(self, kind):
        self.buffer, self.chunk = filled(kind, axis=-1)
