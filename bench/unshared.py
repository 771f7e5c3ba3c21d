"""Default buffers against `dedup=False`, for rows that share frames and rows that do not: `python -m bench.unshared`.

A buffer looks for frames that it has already. This prints what the search costs: puts into a full buffer, puts until
it is full, and batches, each in turns with a buffer of whole rows and by processor time, so that other work on the
machine shows less; then the bytes held. `unrelated` rows are random bytes, `shuffled` ones are the rows of one
trajectory in random order, `trajectory` the same in order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from bench.published import publish
from really import ReplayBuffer

# Shape and dtype of an observation, capacity, and rows of a put.
KINDS = {
    "f32[300]": ((300,), np.float32, 100_000, 1000),
    "f32[376]": ((376,), np.float32, 100_000, 1000),
    "u8[84, 84]": ((84, 84), np.uint8, 30_000, 500),
    "Atari u8[4, 84, 84]": ((4, 84, 84), np.uint8, 10_000, 500),
}
ORDERS = ("unrelated", "shuffled", "trajectory")
PUTS, ROUNDS, BATCH, BATCHES = 12, 30, 256, 8


def observations(kind: str, num: int) -> np.ndarray:
    """Observations of one trajectory, `[num, ...]`."""
    shape, dtype, *_ = KINDS[kind]
    rng = np.random.default_rng(0)
    if len(shape) < 3:
        return rng.integers(0, 256, (num, *shape), np.uint8).astype(dtype, copy=False)
    frames = rng.integers(0, 256, (num + shape[0] - 1, *shape[1:]), np.uint8)
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, shape[0], axis=0), -1, 1)


def puts(kind: str, order: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields PUTS puts of rows, each in arrays of its own."""
    size = KINDS[kind][3]
    shown = observations(kind, 2 * PUTS * size if order == "unrelated" else PUTS * size + 1)
    if order == "unrelated":
        shown = (
            np.random.default_rng(1).integers(0, 256, (2 * PUTS * size, *KINDS[kind][0]), np.uint8).astype(shown.dtype)
        )
    numbers = np.arange(PUTS * size)
    if order == "shuffled":
        numbers = np.random.default_rng(2).permutation(numbers)
    after = numbers + (PUTS * size if order == "unrelated" else 1)
    for first in range(0, PUTS * size, size):
        part = slice(first, first + size)
        yield {
            "state": np.ascontiguousarray(shown[numbers[part]]),
            "action": np.zeros(size, np.int64),
            "reward": np.zeros(size, np.float32),
            "state_new": np.ascontiguousarray(shown[after[part]]),
            "terminal": np.zeros(size, np.float32),
        }


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> float:
    """Processor time of `whole` divided by that of `default`: lower quartiles, in turns whose order alternates."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in sorted(calls, reverse=bool(turn % 2)):
            began = time.process_time()
            calls[name]()
            found[name].append(time.process_time() - began)
    return float(np.quantile(found["whole"], 0.25) / np.quantile(found["default"], 0.25))


def main() -> None:
    lines = ["| rows | put | put, filling | sample 256 | bytes |", "| --- | --- | --- | --- | --- |"]
    for kind in KINDS:
        for order in ORDERS:
            lines.append(compare(kind, order))
            print(lines[-1], flush=True)
    if "--publish" in sys.argv[1:]:
        publish("unshared", "python -m bench.unshared --publish", {"default": "\n".join(lines)}, "by processor time")


def compare(kind: str, order: str) -> str:
    """A row of the table: the rates of default buffers as multiples of those of whole rows, and bytes."""
    *_, capacity, size = KINDS[kind]
    batches = list(puts(kind, order))
    buffers = {"default": ReplayBuffer(capacity, seed=0), "whole": ReplayBuffer(capacity, seed=0, dedup=False)}

    def put_all(buffer: ReplayBuffer) -> None:
        for batch in batches:
            buffer.put(batch)

    calls = {name: lambda buffer=buffer: put_all(buffer) for name, buffer in buffers.items()}
    filling = in_turns(calls, capacity // (PUTS * size))
    put_all(buffers["default"])
    put_all(buffers["whole"])
    full = in_turns(calls, ROUNDS)
    samples = {
        name: lambda buffer=buffer: [buffer.sample(BATCH) for _ in range(BATCHES)] for name, buffer in buffers.items()
    }
    sampling = in_turns(samples, ROUNDS)
    held = {name: buffer.memory()["held"] for name, buffer in buffers.items()}
    ratio = held["default"] / held["whole"]
    return f"| {kind}, {order} | {full:.2f} | {filling:.2f} | {sampling:.2f} | {ratio:.2f} |"


if __name__ == "__main__":
    main()
