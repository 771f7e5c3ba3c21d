"""Frames stored once against whole rows, in turns of one run: `python -m bench.frames`.

Prints rows a second of both kinds of storage and their ratio: puts of raw rows (a few steps of each game, or many), of
messages from runners, of rows that are views of one array, and to a buffer that fills; then batches. A turn is three
calls after one that is not timed, so that no call finds the caches of another.

The last column is the share of a floor. The floor of a batch is bench/floor.c, which copies as many bytes from five
adjacent frames at random places, through the cache or past it, whichever is faster, and interleaves nothing. The floor
of a put of raw rows reads each of their bytes once.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from benchmarks.c_floor import FrameFloor, read_all
from benchmarks.frames import CAPACITY, GAMES, OPTIONS, STEPS, filled

from bench.published import publish
from really import ReplayBuffer

ROUNDS, CALLS, FILLINGS = 15, 3, 5
HEAD = ["| cell | whole rows/s | once rows/s | once / whole | share of floor |", "| --- | --- | --- | --- | --- |"]
FEW_STEPS = (1, 4)
BATCHES = (32, 256, 1024)


LINES = list(HEAD)


def seconds(call) -> float:
    """Seconds per call in one turn."""
    call()
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS


def medians(calls) -> dict[str, float]:
    """Median seconds of each call, all in turns."""
    found = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            found[name].append(seconds(call))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    for line in HEAD:
        print(line)
    for axis, name in ((0, "stack axis first"), (-1, "stack axis last")):
        compare(name, axis)
    if "--publish" in sys.argv[1:]:
        publish("frames", "python -m bench.frames --publish", {"frames": "\n".join(LINES)})


def compare(name: str, axis: int) -> None:
    """Prints the table rows for stacks along `axis`."""
    (whole, rows), (once, _), (_, sent) = (filled(kind, axis) for kind in ("whole", "once", "runners"))
    num, nbytes = GAMES * STEPS, [buffer.memory()["held"] / len(buffer) for buffer in (whole, once)]
    tell(f"| {name}, bytes a row | {nbytes[0]:,.0f} | {nbytes[1]:,.0f} | {nbytes[1] / nbytes[0]:.3f} | |")
    read = partial(read_all, rows["state"], rows["state_new"])
    show(f"{name}, put {num} raw rows", num, lambda: whole.put(rows), lambda: once.put(rows), [read])
    for steps in FEW_STEPS:
        show_few_steps(f"{name}, put {GAMES * steps} raw rows", steps, rows, whole, once)
    show_filling(f"{name}, put {num} raw rows to a buffer that fills", rows, axis)
    if axis == 0:
        show(f"{name}, put {num} rows from runners", num, lambda: whole.put(rows), lambda: once.put(sent))
        for what, views in views_of(rows):
            show(f"{name}, put {num} rows: {what}", num, partial(whole.put, views), partial(once.put, views))
    floor = FrameFloor(np.random.default_rng(0).integers(0, 255, (CAPACITY, 84, 84), np.uint8))
    for batch in BATCHES:
        floors = [floor.sampler(batch, streams) for streams in (False, True)]
        show(f"{name}, sample {batch}", batch, partial(whole.sample, batch), partial(once.sample, batch), floors)


def views_of(rows):
    """Yields the same rows as views of one array per trajectory."""
    num = len(rows["reward"])
    frames = np.concatenate([rows["state"][0, :3], rows["state"][:, 3], rows["state_new"][-1:, 3]])
    windows = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)
    stacks = np.ascontiguousarray(windows)
    for what, array in (("`obs[:-1]` and `obs[1:]`", stacks), ("sliding windows", windows)):
        yield what, rows | {"state": array[:num], "state_new": array[1:]}


def show_few_steps(cell: str, steps: int, rows, whole, once) -> None:
    """Prints puts of a few steps of each game, after an untimed pass over the same steps."""
    at = np.arange(GAMES * STEPS).reshape(GAMES, STEPS)
    batches = [at[:, first : first + steps].ravel() for first in range(0, STEPS, steps)]
    times = {"whole": [], "once": []}
    for timed in (False, True):
        for batch in batches:
            for name, buffer in (("whole", whole), ("once", once)):
                part = {key: column[batch] for key, column in rows.items()}
                began = time.perf_counter()
                buffer.put(part)
                if timed:
                    times[name].append(time.perf_counter() - began)
    show_rates(cell, GAMES * steps, {name: statistics.median(part) for name, part in times.items()})


def show_filling(cell: str, rows, axis: int) -> None:
    """Prints puts until a new buffer is full, while the system provides its memory."""
    num, num_puts = len(rows["reward"]), CAPACITY // len(rows["reward"])
    times = {"whole": [], "once": []}
    for _ in range(FILLINGS):
        for name in times:
            buffer = ReplayBuffer(CAPACITY, seed=0, **OPTIONS[name](axis))
            began = time.perf_counter()
            for _ in range(num_puts):
                buffer.put(rows)
            times[name].append((time.perf_counter() - began) / num_puts)
            del buffer
    show_rates(cell, num, {name: statistics.median(part) for name, part in times.items()})


def show(cell: str, rows: int, whole, once, floors=()) -> None:
    found = medians({"whole": whole, "once": once, **dict(enumerate(floors))})
    share = f"{min(found[at] for at in range(len(floors))) / found['once']:.0%}" if floors else ""
    show_rates(cell, rows, found, share)


def show_rates(cell: str, rows: int, found, share: str = "") -> None:
    ratio = found["whole"] / found["once"]
    rates = f"{rows / found['whole']:,.0f} | {rows / found['once']:,.0f}"
    tell(f"| {cell} | {rates} | {ratio:.2f} | {share} |")


def tell(line: str) -> None:
    """Prints a row of the table and keeps it."""
    LINES.append(line)
    print(line, flush=True)


if __name__ == "__main__":
    main()
